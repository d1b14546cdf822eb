//! What a registry has.

use serde::Deserialize;
use ureq::http::{Method, StatusCode};

use super::http::{encode, limited};
use super::{RegistryError, Session};

const BYTES_MAX: u64 = 16 << 20;
/// More than this, Debian's registry refuses.
const CATALOG_PAGE: usize = 1000;
const CATALOG_PAGES_MAX: usize = 100;

/// An image that a registry has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// With the registry.
    pub name: String,
    /// As its maker describes it.
    pub description: String,
    /// How many like it; only where registries count that.
    pub stars: Option<i64>,
    /// The registry vouches for it.
    pub official: bool,
}

impl Session {
    /// Asks for repositories whose name contains a text: by the search of version 1, where the registry has it, else
    /// by its catalogue.
    /// # Errors
    /// [`RegistryError::NotOffered`] where it has neither.
    pub fn search(&self, term: &str, limit: usize) -> Result<Vec<Found>, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            results: Vec<Result>,
        }
        #[derive(Deserialize)]
        struct Result {
            name: String,
            #[serde(default)]
            description: Option<String>,
            #[serde(default)]
            star_count: Option<i64>,
            #[serde(default)]
            is_official: bool,
        }
        #[derive(Deserialize)]
        struct Catalog {
            repositories: Vec<String>,
        }
        let bad = |reason: String| RegistryError::BadAnswer { registry: self.registry().to_owned(), reason };
        let query = encode(&[("q", term.to_owned()), ("n", limit.to_string())]);
        let response = self.request(&Method::GET, &format!("/v1/search?{query}"), &[], "a search")?;
        if response.status().is_success() {
            let json = limited(response, BYTES_MAX).map_err(|error| self.broken(&error))?;
            // What is no page of results is a registry's way to say that it knows no searches.
            if let Ok(page) = serde_json::from_slice::<Page>(&json) {
                let found = page.results.into_iter().take(limit).map(|result| Found {
                    name: format!("{}/{}", self.registry(), result.name),
                    description: result.description.unwrap_or_default(),
                    stars: result.star_count,
                    official: result.is_official,
                });
                return Ok(found.collect());
            }
        }
        let mut found = Vec::new();
        let mut last = String::new();
        for _ in 0..CATALOG_PAGES_MAX {
            let mut query = vec![("n", CATALOG_PAGE.to_string())];
            if !last.is_empty() {
                query.push(("last", last));
            }
            let path = format!("/v2/_catalog?{}", encode(&query));
            let response = self.request(&Method::GET, &path, &[], "its catalogue")?;
            match response.status() {
                status if status.is_success() => {}
                StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
                    let registry = self.registry().to_owned();
                    return Err(RegistryError::NotOffered { registry, what: "a search" });
                }
                _ => return Err(self.refused(response, "its catalogue")),
            }
            let json = limited(response, BYTES_MAX).map_err(|error| self.broken(&error))?;
            let catalog: Catalog = serde_json::from_slice(&json).map_err(|error| bad(error.to_string()))?;
            let is_last = catalog.repositories.len() < CATALOG_PAGE;
            last = catalog.repositories.last().cloned().unwrap_or_default();
            found.extend(catalog.repositories.into_iter().filter(|name| name.contains(term)).map(|name| {
                Found {
                    name: format!("{}/{name}", self.registry()),
                    description: String::new(),
                    stars: None,
                    official: false,
                }
            }));
            if is_last || found.len() >= limit {
                break;
            }
        }
        found.truncate(limit);
        Ok(found)
    }
}
