//! Who we are for a registry: the files that podman, skopeo and docker keep credentials in.
//!
//! Source: containers-auth.json(5).

use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Map, Value, json};

use super::RegistryError;
use crate::image::Reference;

const FILE_BYTES_MAX: u64 = 1 << 20;
/// What docker calls its own registry.
const DOCKER_KEYS: [&str; 3] = ["docker.io", "index.docker.io", "https://index.docker.io/v1/"];

/// A user of a registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// Name and password.
    Password {
        /// The name.
        username: String,
        /// The password, or a token that stands for it.
        password: String,
    },
    /// A token to get tokens with.
    IdentityToken(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Never the secret.
        match self {
            Self::Password { username, .. } => {
                f.debug_struct("Password").field("username", username).finish()
            }
            Self::IdentityToken(_) => f.write_str("IdentityToken"),
        }
    }
}

/// The files with credentials, in the order in which they are asked.
#[derive(Debug, Clone)]
pub struct AuthFiles {
    paths: Vec<PathBuf>,
}

impl AuthFiles {
    /// Those of this user: `$REGISTRY_AUTH_FILE`, or `containers/auth.json` in the run directory and in the user's
    /// configuration, and docker's `config.json`. The first is the one that [`Self::store`] writes.
    pub fn of_user() -> Self {
        if let Some(path) = std::env::var_os("REGISTRY_AUTH_FILE") {
            return Self { paths: vec![path.into()] };
        }
        let uid = crate::identity::user();
        let run = match std::env::var_os("XDG_RUNTIME_DIR") {
            Some(directory) if uid != 0 => PathBuf::from(directory).join("containers"),
            _ => PathBuf::from(format!("/run/containers/{uid}")),
        };
        let mut paths = vec![run.join("auth.json")];
        paths.extend(config_home().map(|home| home.join("containers/auth.json")));
        let docker = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
        paths.extend(
            docker.or_else(|| home().map(|home| home.join(".docker"))).map(|home| home.join("config.json")),
        );
        Self { paths }
    }

    /// The credentials for an image, by the longest key that fits: a repository, a namespace, or the registry.
    /// # Errors
    /// [`RegistryError::Config`] for a file that can't be read or understood.
    pub fn find(&self, reference: &Reference) -> Result<Option<Credentials>, RegistryError> {
        let name = reference.name();
        let mut keys: Vec<&str> = vec![&name];
        while let Some((shorter, _)) = keys.last().and_then(|key| key.rsplit_once('/')) {
            keys.push(shorter);
        }
        if reference.registry() == "docker.io" {
            keys.extend(DOCKER_KEYS);
        }
        for path in &self.paths {
            let auths = read(path)?.remove("auths");
            let Some(Value::Object(auths)) = auths else { continue };
            for key in &keys {
                let entry = auths.get(*key).or_else(|| auths.get(&format!("https://{key}")));
                if let Some(credentials) = entry.and_then(credentials) {
                    return Ok(Some(credentials));
                }
            }
        }
        Ok(None)
    }

    /// Keeps credentials for a registry.
    /// # Errors
    /// [`RegistryError::Config`].
    pub fn store(&self, registry: &str, username: &str, password: &str) -> Result<PathBuf, RegistryError> {
        let Some(path) = self.paths.first() else {
            return Err(RegistryError::Config {
                path: PathBuf::new(),
                reason: "there is no such file".to_owned(),
            });
        };
        let mut content = read(path)?;
        let auths = content.entry("auths").or_insert_with(|| json!({}));
        let secret = BASE64.encode(format!("{username}:{password}"));
        match auths.as_object_mut() {
            Some(auths) => auths.insert(registry.to_owned(), json!({"auth": secret})),
            None => {
                let reason = "its auths is no object".to_owned();
                return Err(RegistryError::Config { path: path.clone(), reason });
            }
        };
        write(path, &content)?;
        Ok(path.clone())
    }

    /// Forgets the credentials for a registry in every file. False if there were none.
    /// # Errors
    /// [`RegistryError::Config`].
    pub fn forget(&self, registry: &str) -> Result<bool, RegistryError> {
        let mut forgotten = false;
        for path in &self.paths {
            let mut content = read(path)?;
            let Some(auths) = content.get_mut("auths").and_then(Value::as_object_mut) else { continue };
            let before = auths.len();
            let aliases: &[&str] = if registry == "docker.io" { &DOCKER_KEYS } else { &[] };
            for key in aliases.iter().copied().chain([registry]) {
                auths.remove(key);
            }
            if auths.len() < before {
                write(path, &content)?;
                forgotten = true;
            }
        }
        Ok(forgotten)
    }
}

fn credentials(entry: &Value) -> Option<Credentials> {
    let text = |key: &str| entry.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    if let Some(token) = text("identitytoken") {
        return Some(Credentials::IdentityToken(token.to_owned()));
    }
    if let Some(auth) = text("auth") {
        let decoded = String::from_utf8(BASE64.decode(auth).ok()?).ok()?;
        let (username, password) = decoded.split_once(':')?;
        let password = password.trim_end_matches('\0').to_owned();
        return Some(Credentials::Password { username: username.to_owned(), password });
    }
    Some(Credentials::Password {
        username: text("username")?.to_owned(),
        password: text("password")?.to_owned(),
    })
}

fn read(path: &Path) -> Result<Map<String, Value>, RegistryError> {
    let bad = |reason: String| RegistryError::Config { path: path.to_owned(), reason };
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() > FILE_BYTES_MAX => return Err(bad("it is too large".to_owned())),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Map::new()),
        Err(error) => return Err(bad(error.to_string())),
    }
    let bytes = std::fs::read(path).map_err(|error| bad(error.to_string()))?;
    if bytes.trim_ascii().is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))
}

/// Replaces the file in one step; it is for its owner alone.
fn write(path: &Path, content: &Map<String, Value>) -> Result<(), RegistryError> {
    let bad = |error: io::Error| RegistryError::Config { path: path.to_owned(), reason: error.to_string() };
    let parent = path.parent().unwrap_or_else(|| Path::new("/"));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(bad)?;
    let new = parent.join(format!(".auth-{}.new", std::process::id()));
    let written = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut file| {
            file.write_all(&serde_json::to_vec_pretty(content)?)?;
            file.sync_all()
        })
        .and_then(|()| std::fs::rename(&new, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&new);
    }
    written.map_err(bad)
}

fn home() -> Option<PathBuf> {
    match std::env::var_os("HOME") {
        Some(home) if !home.is_empty() => Some(home.into()),
        // A system service has no HOME.
        _ => crate::identity::is_root().then(|| PathBuf::from("/root")),
    }
}

/// `$XDG_CONFIG_HOME`, or `.config` of the user.
pub(super) fn config_home() -> Option<PathBuf> {
    match std::env::var_os("XDG_CONFIG_HOME") {
        Some(directory) if !directory.is_empty() => Some(directory.into()),
        _ => home().map(|home| home.join(".config")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_found_by_the_longest_key_and_the_first_file() {
        let dir = tempfile::tempdir().unwrap();
        let paths = vec![dir.path().join("auth.json"), dir.path().join("config.json")];
        let files = AuthFiles { paths: paths.clone() };
        let user = |name: &str| match files.find(&name.parse().unwrap()).unwrap() {
            Some(Credentials::Password { username, password }) => format!("{username}/{password}"),
            Some(Credentials::IdentityToken(token)) => token,
            None => "nobody".to_owned(),
        };
        assert_eq!(user("quay.io/web"), "nobody");
        std::fs::write(
            &paths[1],
            format!(
                r#"{{"auths": {{"https://index.docker.io/v1/": {{"auth": "{}"}}, "quay.io": {{"identitytoken": "t"}}}}, "credsStore": "x"}}"#,
                BASE64.encode("d:p:q")
            ),
        )
        .unwrap();
        files.store("quay.io/team", "team", "secret").unwrap();
        assert_eq!(user("docker.io/web"), "d/p:q");
        assert_eq!(user("quay.io/other/web"), "t");
        assert_eq!(user("quay.io/team/web"), "team/secret");
        assert_eq!(user("quay.io/teams/web"), "t");
        use std::os::unix::fs::MetadataExt;
        assert_eq!(std::fs::metadata(&paths[0]).unwrap().mode() & 0o777, 0o600);
        assert!(files.forget("docker.io").unwrap());
        assert_eq!(user("docker.io/web"), "nobody");
        assert!(!files.forget("docker.io").unwrap());
        assert!(std::fs::read_to_string(&paths[1]).unwrap().contains("credsStore"), "the rest stays");
        std::fs::write(&paths[0], "{").unwrap();
        assert!(matches!(files.find(&"quay.io/web".parse().unwrap()), Err(RegistryError::Config { .. })));
    }

    #[test]
    fn a_secret_is_not_shown() {
        let credentials = Credentials::Password { username: "me".to_owned(), password: "secret".to_owned() };
        assert!(!format!("{credentials:?}").contains("secret"));
    }
}
