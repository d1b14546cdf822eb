//! Requests to one repository of one registry.

use std::io::Read;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rustls::pki_types::pem::PemObject as _;
use serde::Deserialize;
use ureq::http::{Method, Request, Response, StatusCode, Uri, header};
use ureq::tls::{Certificate, ClientCert, PrivateKey, RootCerts, TlsConfig};
use ureq::{Agent, Body, SendBody};

use super::{Credentials, Endpoint, RegistryError, auth::config_home};
use crate::image::manifest::{DOCKER_LIST, DOCKER_MANIFEST, MANIFEST_BYTES_MAX, OCI_INDEX, OCI_MANIFEST};

/// What one request may be tried.
const ATTEMPTS_MAX: u32 = 6;
const DELAY_MIN: Duration = Duration::from_millis(200);
const DELAY_MAX: Duration = Duration::from_secs(10);
/// A registry that asks for more patience is not waited for that long.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// A connection on which nothing moves for this long is given up, and tried again.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
const TICK: Duration = Duration::from_millis(50);
const TOKEN_BYTES_MAX: u64 = 1 << 20;
const ERROR_BYTES_MAX: u64 = 64 << 10;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reading.
    Pull,
    /// Reading and writing.
    Push,
    /// Only finding out whether credentials are right.
    Login,
}

/// Asks one repository. Cheap to share; several threads may ask at once.
#[derive(Debug)]
pub struct Session {
    agent: Agent,
    registry: String,
    repository: String,
    /// `https://host:port`.
    origin: String,
    access: Access,
    credentials: Option<Credentials>,
    authorization: Mutex<Option<String>>,
    cancelled: Arc<AtomicBool>,
}

/// How often one thing was tried.
#[derive(Debug, Default)]
pub(super) struct Patience {
    attempts: u32,
}

impl Patience {
    /// Waits before the next attempt; false if it was tried often enough.
    pub(super) fn wait(
        &mut self,
        session: &Session,
        retry_after: Option<Duration>,
    ) -> Result<bool, RegistryError> {
        self.attempts += 1;
        if self.attempts >= ATTEMPTS_MAX {
            return Ok(false);
        }
        let delay =
            retry_after.unwrap_or_else(|| DELAY_MIN.saturating_mul(1 << (self.attempts - 1)).min(DELAY_MAX));
        let until = Instant::now() + delay.min(RETRY_AFTER_MAX);
        while Instant::now() < until {
            session.check_cancelled()?;
            std::thread::sleep(TICK.min(until.saturating_duration_since(Instant::now())));
        }
        Ok(true)
    }

    /// There was progress: what comes now is a new trouble.
    pub(super) fn renew(&mut self) {
        self.attempts = 0;
    }
}

impl Session {
    /// Finds out how the registry speaks, and whether it knows us.
    /// # Errors
    /// [`RegistryError::Unreachable`], [`RegistryError::Unauthorized`], [`RegistryError::BadAnswer`].
    pub fn open(
        endpoint: &Endpoint,
        access: Access,
        credentials: Option<Credentials>,
        cancelled: Arc<AtomicBool>,
    ) -> Result<Self, RegistryError> {
        let registry = endpoint.reference.registry().to_owned();
        let host = endpoint.host();
        let agent = agent(host, endpoint.insecure)?;
        let mut session = Self {
            agent,
            registry,
            repository: endpoint.reference.repository().to_owned(),
            origin: format!("https://{host}"),
            access,
            credentials,
            authorization: Mutex::new(None),
            cancelled,
        };
        match session.ping() {
            Err(RegistryError::Unreachable { .. }) if endpoint.insecure => {
                session.origin = format!("http://{host}");
                session.ping()?;
            }
            result => result?,
        }
        Ok(session)
    }

    /// Host and port, as images are named by it.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    pub(super) fn repository(&self) -> &str {
        &self.repository
    }

    /// Ends requests that wait for an answer, and all later ones. For a caller that gives up.
    pub fn shut_down(&self) {
        self.agent.clone().shutdown();
    }

    pub(super) fn check_cancelled(&self) -> Result<(), RegistryError> {
        if self.cancelled.load(Ordering::Relaxed) { Err(RegistryError::Cancelled) } else { Ok(()) }
    }

    /// Asks whether there is a registry, and gets a token if it wants one.
    fn ping(&mut self) -> Result<(), RegistryError> {
        let url = format!("{}/v2/", self.origin);
        let mut patience = Patience::default();
        loop {
            let answer = self.once(Method::GET, &url, &[], SendBody::none());
            let response = match answer {
                Ok(response) => response,
                // Without TLS the other end hangs up at once: nothing is gained by more patience.
                Err(RegistryError::Unreachable { registry, reason }) => {
                    return Err(RegistryError::Unreachable { registry, reason });
                }
                Err(error) => return Err(error),
            };
            match response.status() {
                StatusCode::UNAUTHORIZED => {
                    let challenge = challenge(&response);
                    return self.authorize(challenge.as_deref());
                }
                status if is_transient(status) => {
                    if !patience.wait(self, retry_after(&response))? {
                        return Err(self.refused(response, "the first request"));
                    }
                }
                status if status.is_success() => return Ok(()),
                StatusCode::NOT_FOUND => {
                    let reason = "it has no /v2/, so it is no registry of images".to_owned();
                    return Err(RegistryError::BadAnswer { registry: self.registry.clone(), reason });
                }
                _ => return Err(self.refused(response, "the first request")),
            }
        }
    }

    /// Does what a challenge asks for, and keeps the result for all later requests.
    fn authorize(&self, challenge: Option<&str>) -> Result<(), RegistryError> {
        let unauthorized = |reason: &str| RegistryError::Unauthorized {
            registry: self.registry.clone(),
            reason: reason.to_owned(),
        };
        let challenge = challenge.unwrap_or("Basic");
        let (scheme, parameters) = challenge.split_once(' ').unwrap_or((challenge, ""));
        let header = if scheme.eq_ignore_ascii_case("basic") {
            match &self.credentials {
                Some(Credentials::Password { username, password }) => basic(username, password),
                _ => return Err(unauthorized("it wants a user and a password")),
            }
        } else if scheme.eq_ignore_ascii_case("bearer") {
            format!("Bearer {}", self.token(parameters)?)
        } else {
            return Err(unauthorized(&format!("it wants {scheme:?}, which is not known here")));
        };
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(header);
        if self.access == Access::Login {
            let url = format!("{}/v2/", self.origin);
            let response = self.once(Method::GET, &url, &[], SendBody::none())?;
            if !response.status().is_success() {
                return Err(self.refused(response, "the login"));
            }
        }
        Ok(())
    }

    /// Gets a token from whom the registry trusts.
    fn token(&self, parameters: &str) -> Result<String, RegistryError> {
        #[derive(Deserialize)]
        struct Token {
            token: Option<String>,
            access_token: Option<String>,
        }
        let bad = |reason: String| RegistryError::BadAnswer { registry: self.registry.clone(), reason };
        let value = |key: &str| parameter(parameters, key);
        let realm =
            value("realm").ok_or_else(|| bad("it wants a token and does not say from whom".to_owned()))?;
        let realm_uri: Uri = realm.parse().map_err(|_| bad(format!("{realm:?} is no address of tokens")))?;
        // A secret is not sent in the clear because a registry with TLS says so.
        if self.origin.starts_with("https:") && realm_uri.scheme_str() != Some("https") {
            return Err(bad(format!("it wants a token from {realm:?}, without TLS")));
        }
        let mut query = Vec::new();
        if let Some(service) = value("service") {
            query.push(("service", service));
        }
        match self.access {
            Access::Pull => query.push(("scope", format!("repository:{}:pull", self.repository))),
            Access::Push => query.push(("scope", format!("repository:{}:pull,push", self.repository))),
            Access::Login => {}
        }
        let mut patience = Patience::default();
        loop {
            let answer = match &self.credentials {
                Some(Credentials::IdentityToken(token)) => {
                    let mut form = query.clone();
                    form.extend([
                        ("grant_type", "refresh_token".to_owned()),
                        ("refresh_token", token.clone()),
                    ]);
                    form.push(("client_id", "dormouse".to_owned()));
                    let body = encode(&form);
                    let request = Request::post(&realm)
                        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                        .body(body)
                        .map_err(|error| bad(error.to_string()))?;
                    self.agent.run(request).map_err(|error| self.unreachable(&error))
                }
                other => {
                    let separator = if realm.contains('?') { '&' } else { '?' };
                    let mut request = Request::get(format!("{realm}{separator}{}", encode(&query)));
                    if let Some(Credentials::Password { username, password }) = other {
                        request = request.header(header::AUTHORIZATION, basic(username, password));
                    }
                    let request = request.body(()).map_err(|error| bad(error.to_string()))?;
                    self.agent.run(request).map_err(|error| self.unreachable(&error))
                }
            };
            self.check_cancelled()?;
            let response = match answer {
                Ok(response) if is_transient(response.status()) => {
                    if patience.wait(self, retry_after(&response))? {
                        continue;
                    }
                    return Err(self.refused(response, "a token"));
                }
                Ok(response) => response,
                Err(error) => {
                    if patience.wait(self, None)? {
                        continue;
                    }
                    return Err(error);
                }
            };
            if !response.status().is_success() {
                return Err(self.refused(response, "a token"));
            }
            let json = limited(response, TOKEN_BYTES_MAX).map_err(|error| bad(error.to_string()))?;
            let token: Token =
                serde_json::from_slice(&json).map_err(|error| bad(format!("its token: {error}")))?;
            return token
                .token
                .or(token.access_token)
                .filter(|token| !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic()))
                .ok_or_else(|| bad("its token is none".to_owned()));
        }
    }

    /// Asks once, with the authorization that there is.
    pub(super) fn once(
        &self,
        method: Method,
        url: &str,
        headers: &[(header::HeaderName, String)],
        body: SendBody<'_>,
    ) -> Result<Response<Body>, RegistryError> {
        self.check_cancelled()?;
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        // Only for the registry itself: where it stores its blobs is not told who we are.
        if url.strip_prefix(&self.origin).is_some_and(|rest| rest.starts_with('/'))
            && let Some(value) = self.authorization.lock().unwrap_or_else(PoisonError::into_inner).as_ref()
        {
            request = request.header(header::AUTHORIZATION, value);
        }
        let request = request.body(body).map_err(|error| RegistryError::BadAnswer {
            registry: self.registry.clone(),
            reason: format!("{url:?}: {error}"),
        })?;
        let answer = self.agent.run(request);
        self.check_cancelled()?;
        answer.map_err(|error| self.unreachable(&error))
    }

    /// Asks, renews the authorization if it has expired, and tries again what may be tried again. `path` begins with `/v2/`,
    /// or is a whole address. No body: that can't be sent twice.
    pub(super) fn request(
        &self,
        method: &Method,
        path: &str,
        headers: &[(header::HeaderName, String)],
        what: &str,
    ) -> Result<Response<Body>, RegistryError> {
        let url = self.url(path);
        let mut patience = Patience::default();
        let mut renewed = false;
        loop {
            let response = match self.once(method.clone(), &url, headers, SendBody::none()) {
                Ok(response) => response,
                Err(error @ RegistryError::Unreachable { .. }) => {
                    if patience.wait(self, None)? {
                        continue;
                    }
                    return Err(error);
                }
                Err(error) => return Err(error),
            };
            match response.status() {
                StatusCode::UNAUTHORIZED if !renewed => {
                    renewed = true;
                    self.authorize(challenge(&response).as_deref())?;
                }
                status if is_transient(status) => {
                    if !patience.wait(self, retry_after(&response))? {
                        return Err(self.refused(response, what));
                    }
                }
                _ => return Ok(response),
            }
        }
    }

    pub(super) fn url(&self, path: &str) -> String {
        if path.starts_with('/') { format!("{}{path}", self.origin) } else { path.to_owned() }
    }

    /// Gets a manifest or an index: its bytes, and what the registry says it is. `version` is a tag or a digest.
    /// # Errors
    /// [`RegistryError::NotFound`] and others.
    pub fn manifest(&self, version: &str) -> Result<(Vec<u8>, Option<String>), RegistryError> {
        let what = format!("manifest {}:{version}", self.repository);
        let accept = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST].join(", ");
        let path = format!("/v2/{}/manifests/{version}", self.repository);
        let mut patience = Patience::default();
        loop {
            let response = self.request(&Method::GET, &path, &[(header::ACCEPT, accept.clone())], &what)?;
            if !response.status().is_success() {
                return Err(self.refused(response, &what));
            }
            let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
            let kind = kind.map(|kind| kind.split(';').next().unwrap_or(kind).trim().to_owned());
            match limited(response, MANIFEST_BYTES_MAX as u64 + 1) {
                Ok(bytes) => return Ok((bytes, kind)),
                Err(error) => {
                    if !patience.wait(self, None)? {
                        return Err(self.broken(&error));
                    }
                }
            }
        }
    }

    pub(super) fn unreachable(&self, error: &ureq::Error) -> RegistryError {
        if self.cancelled.load(Ordering::Relaxed) {
            return RegistryError::Cancelled;
        }
        let reason = match error {
            ureq::Error::Io(error) => error.to_string(),
            ureq::Error::HostNotFound => "there is no host of this name".to_owned(),
            other => other.to_string(),
        };
        RegistryError::Unreachable { registry: self.registry.clone(), reason }
    }

    pub(super) fn broken(&self, error: &std::io::Error) -> RegistryError {
        RegistryError::Unreachable { registry: self.registry.clone(), reason: error.to_string() }
    }

    /// Turns an answer that is no success into an error.
    pub(super) fn refused(&self, response: Response<Body>, what: &str) -> RegistryError {
        let status = response.status();
        let registry = self.registry.clone();
        let said = limited(response, ERROR_BYTES_MAX).unwrap_or_default();
        let reason =
            message(&said).unwrap_or_else(|| status.canonical_reason().unwrap_or("no reason").to_owned());
        match status {
            StatusCode::NOT_FOUND => RegistryError::NotFound { registry, what: what.to_owned() },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                RegistryError::Unauthorized { registry, reason }
            }
            _ => RegistryError::Refused {
                registry,
                what: what.to_owned(),
                reason: format!("{} {reason}", status.as_u16()),
            },
        }
    }
}

/// Worth another attempt.
pub(super) fn is_transient(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

pub(super) fn retry_after(response: &Response<Body>) -> Option<Duration> {
    let value = response.headers().get(header::RETRY_AFTER)?.to_str().ok()?;
    value.trim().parse().ok().map(Duration::from_secs)
}

fn challenge(response: &Response<Body>) -> Option<String> {
    let challenges = response.headers().get_all(header::WWW_AUTHENTICATE);
    let texts: Vec<&str> = challenges.iter().filter_map(|value| value.to_str().ok()).collect();
    let bearer =
        texts.iter().find(|text| text.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("bearer")));
    bearer.or(texts.first()).map(|text| (*text).to_owned())
}

/// A parameter of a challenge: `key="value"`.
fn parameter(parameters: &str, key: &str) -> Option<String> {
    let mut rest = parameters;
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=')?;
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => {
                let (value, next) = quoted.split_once('"')?;
                (value, next.split_once(',').map_or("", |(_, next)| next))
            }
            None => after.split_once(',').unwrap_or((after, "")),
        };
        if name.trim().eq_ignore_ascii_case(key) {
            return Some(value.to_owned());
        }
        rest = next;
    }
    None
}

/// The messages of an error of the distribution-spec; what comes from outside is cut and cleaned.
fn message(json: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(json).ok()?;
    let errors = value.get("errors")?.as_array()?;
    let texts = errors.iter().take(3).filter_map(|error| {
        error.get("message").or_else(|| error.get("code"))?.as_str().filter(|text| !text.is_empty())
    });
    let text: String = texts
        .collect::<Vec<_>>()
        .join("; ")
        .chars()
        .filter(|letter| !letter.is_control())
        .take(300)
        .collect();
    (!text.is_empty()).then_some(text)
}

pub(super) fn limited(response: Response<Body>, bytes_max: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    response
        .into_body()
        .into_with_config()
        .limit(u64::MAX)
        .reader()
        .take(bytes_max)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("{username}:{password}")))
}

/// A form, or a query.
pub(super) fn encode(pairs: &[(&str, String)]) -> String {
    let encoded = |text: &str| -> String {
        text.bytes()
            .map(|byte| match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                    char::from(byte).to_string()
                }
                other => format!("%{other:02X}"),
            })
            .collect()
    };
    pairs
        .iter()
        .map(|(key, value)| format!("{}={}", encoded(key), encoded(value)))
        .collect::<Vec<_>>()
        .join("&")
}

fn agent(host: &str, insecure: bool) -> Result<Agent, RegistryError> {
    let mut roots: Vec<Certificate<'static>> = Vec::new();
    let mut client = None;
    if !insecure {
        let native = rustls_native_certs::load_native_certs();
        roots.extend(native.certs.iter().map(|certificate| Certificate::from_der(certificate).to_owned()));
    }
    for directory in certificate_directories(host) {
        let Ok(listing) = directory.read_dir() else { continue };
        for path in listing.filter_map(|entry| Some(entry.ok()?.path())) {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => roots.extend(certificates(&path)?),
                Some("cert") => {
                    let key_path = path.with_extension("key");
                    let pem = std::fs::read(&key_path).map_err(|error| bad_file(&key_path, &error))?;
                    let key = PrivateKey::from_pem(&pem).map_err(|error| bad_file(&key_path, &error))?;
                    client = Some(ClientCert::new_with_certs(&certificates(&path)?, key));
                }
                _ => {}
            }
        }
    }
    let tls = TlsConfig::builder()
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .root_certs(RootCerts::new_with_certs(&roots))
        .client_cert(client)
        .disable_verification(insecure)
        .build();
    let config = Agent::config_builder()
        .tls_config(tls)
        .https_only(!insecure)
        .http_status_as_error(false)
        .timeout_resolve(Some(CONNECT_TIMEOUT))
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_per_read(Some(STALL_TIMEOUT))
        .timeout_per_write(Some(STALL_TIMEOUT))
        .timeout_recv_response(Some(STALL_TIMEOUT * 2))
        .user_agent(concat!("dormouse/", env!("CARGO_PKG_VERSION")))
        .build();
    Ok(config.new_agent())
}

/// Source: containers-certs.d(5).
fn certificate_directories(host: &str) -> Vec<PathBuf> {
    let mut directories = Vec::new();
    directories.extend(config_home().map(|home| home.join("containers/certs.d")));
    directories.extend(["/etc/containers/certs.d", "/etc/docker/certs.d"].map(PathBuf::from));
    directories.into_iter().map(|directory| directory.join(host)).collect()
}

fn certificates(path: &std::path::Path) -> Result<Vec<Certificate<'static>>, RegistryError> {
    let pem = std::fs::read(path).map_err(|error| bad_file(path, &error))?;
    rustls::pki_types::CertificateDer::pem_slice_iter(&pem)
        .map(|certificate| {
            let certificate = certificate.map_err(|error| bad_file(path, &error))?;
            Ok(Certificate::from_der(&certificate).to_owned())
        })
        .collect()
}

fn bad_file(path: &std::path::Path, error: &dyn std::fmt::Display) -> RegistryError {
    RegistryError::Config { path: path.to_owned(), reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_a_challenge_are_found() {
        let text =
            r#"realm="https://auth.example/token?x=1",service="registry, and more",scope=repository:a:pull"#;
        assert_eq!(parameter(text, "realm").unwrap(), "https://auth.example/token?x=1");
        assert_eq!(parameter(text, "service").unwrap(), "registry, and more");
        assert_eq!(parameter(text, "scope").unwrap(), "repository:a:pull");
        assert_eq!(parameter(text, "error"), None);
        assert_eq!(parameter("garbage", "realm"), None);
    }

    #[test]
    fn what_a_registry_says_is_cleaned() {
        let said = br#"{"errors":[{"code":"DENIED","message":"no\u001b[31m way"},{"code":"X"}]}"#;
        assert_eq!(message(said).unwrap(), "no[31m way; X");
        assert_eq!(message(b"<html>"), None);
    }

    #[test]
    fn queries_are_encoded() {
        assert_eq!(encode(&[("scope", "repository:a/b:pull".to_owned())]), "scope=repository%3Aa%2Fb%3Apull");
    }
}
