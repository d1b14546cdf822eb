//! Secrets: bytes that containers get, and that nobody is told.
//!
//! ```text
//! STATE_DIR/secrets/ID                        0600: the bytes; the database knows only that there are some
//! RUN_DIR/containers/ID/secrets/              0700, made anew at each start
//!   files/NAME                                mounted read-only at /run/secrets
//!   placed/N                                  mounted read-only at a path of the container's choice
//!   credentials/NAME                          in systemd mode, mounted at /run/host/credentials
//! ```
//!
//! The run directory is a tmpfs, of root alone: what lies there is on no disk. A container's record refers to secrets, so
//! that none can be removed under it; neither the record, nor what Inspect tells, nor an image made of the container holds
//! what they are. A secret is an interface of its own, as every noun is: it outlives the containers that it is for.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::store::{SecretRow, StoreError, User, lock_object, try_lock_object};

use super::definition::normal_path;
use super::remove::remove_tree;
use super::spec::{ContainerSpec, SecretKind, SecretUse};
use super::sweep::{entries, is_id};
use super::users::UserMap;
use super::{Container, Engine, EngineError, EventKind, names, now_usec};

/// What Podman takes, and half of what systemd does.
const SIZE_MAX: usize = 500 << 10;
const TARGET: &str = "/run/secrets";

/// What is told of a secret.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SecretDefinition {
    /// Words of its owner.
    pub labels: BTreeMap<String, String>,
    /// How many bytes it has.
    pub size_bytes: u64,
}

/// A secret that exists; not what it is.
#[derive(Debug, Clone)]
pub struct Secret {
    /// As recorded.
    pub row: SecretRow,
    /// What the record says.
    pub definition: SecretDefinition,
}

/// A secret as it is given. It is not shown, not even for debugging.
pub struct NewSecret {
    /// What it is called.
    pub name: String,
    /// What it is.
    pub bytes: Vec<u8>,
    /// Words of its owner.
    pub labels: BTreeMap<String, String>,
    /// In the place of the one that has the name.
    pub replace: bool,
}

impl std::fmt::Debug for NewSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewSecret").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How a container that starts gets its secrets.
#[derive(Default)]
pub(super) struct Delivered {
    pub variables: Vec<String>,
    pub mounts: Vec<Value>,
    /// The directory with all of them that are files, for a systemd.
    pub credentials: Option<PathBuf>,
}

fn invalid(field: impl Into<String>, reason: impl Into<String>) -> EngineError {
    EngineError::InvalidSpec { field: field.into(), reason: reason.into() }
}

/// What is wrong with the secrets of a specification, whatever they are.
pub(super) fn check_asked(spec: &ContainerSpec) -> Result<(), EngineError> {
    let mut taken = BTreeSet::new();
    for (index, wanted) in spec.secrets.iter().enumerate() {
        let field = |name: &str| format!("spec.secrets[{index}].{name}");
        match &wanted.kind {
            SecretKind::File { mode, .. } if *mode > 0o7777 => {
                return Err(invalid(field("mode"), "permission bits lie between 0 and 07777 (4095)"));
            }
            SecretKind::File { target, .. } => {
                let target = target.as_deref().unwrap_or(&wanted.secret);
                let has_part_up =
                    Path::new(target).components().any(|part| part == std::path::Component::ParentDir);
                let is_name = !target.contains('/') && !matches!(target, "" | ".");
                if has_part_up || target.contains('\0') || !(is_name || target.starts_with('/')) {
                    let reason = format!("{target:?} is neither a name nor an absolute path");
                    return Err(invalid(field("target"), reason));
                }
                let path = file_target(wanted, target);
                if path == Path::new("/") || path.starts_with("/proc") {
                    return Err(invalid(field("target"), format!("no secret can be at {target:?}")));
                }
                if !taken.insert(path) {
                    return Err(invalid(field("target"), format!("two secrets can't be at {target:?}")));
                }
            }
            SecretKind::Env { name } => {
                let name = name.as_deref().unwrap_or(&wanted.secret);
                if name.is_empty() || name.contains(['=', '\0']) {
                    return Err(invalid(field("target"), format!("{name:?} is no name of a variable")));
                }
            }
        }
    }
    Ok(())
}

/// Where the files of secrets are in a container.
pub(super) fn targets(spec: &ContainerSpec) -> Vec<String> {
    let target = |wanted: &SecretUse| match &wanted.kind {
        SecretKind::File { target, .. } if target.as_ref().is_some_and(|path| path.starts_with('/')) => {
            target.clone()
        }
        // What is in there is on another mount.
        SecretKind::File { .. } => Some(TARGET.to_owned()),
        SecretKind::Env { .. } => None,
    };
    spec.secrets.iter().filter_map(target).collect()
}

fn file_target(wanted: &SecretUse, target: &str) -> PathBuf {
    debug_assert!(matches!(wanted.kind, SecretKind::File { .. }));
    normal_path(&if target.starts_with('/') { target.to_owned() } else { format!("{TARGET}/{target}") })
}

impl Engine {
    /// Keeps a secret. Blocks the thread.
    ///
    /// # Errors
    /// [`EngineError::SecretExists`], [`EngineError::InvalidSpec`], [`EngineError::StorageFull`].
    pub fn create_secret(&self, new: NewSecret) -> Result<Secret, EngineError> {
        names::check("name", &new.name).map_err(|error| match error {
            EngineError::InvalidSpec { field, reason } => {
                invalid(field, reason.replace("container name", "name of a secret"))
            }
            other => other,
        })?;
        if new.bytes.is_empty() {
            return Err(invalid("data", "a secret has at least one byte"));
        }
        if new.bytes.len() > SIZE_MAX {
            return Err(invalid("data", format!("a secret has at most {SIZE_MAX} bytes")));
        }
        let taken = self.store()?.find_secret(&new.name)?.ok().is_some_and(|row| row.name == new.name);
        if taken && !new.replace {
            return Err(EngineError::SecretExists { secret: new.name });
        }
        let id = names::new_id()?;
        let _lock = lock_object(&self.paths().locks(), &id)?;
        let definition = SecretDefinition { labels: new.labels, size_bytes: new.bytes.len() as u64 };
        let row = SecretRow {
            name: new.name,
            created_usec: now_usec(),
            definition: serde_json::to_string(&definition).map_err(|error| EngineError::Failed {
                attempted: "record the secret".to_owned(),
                reason: error.to_string(),
            })?,
            id: id.clone(),
        };
        let path = self.paths().secret(&id);
        let recorded = keep_bytes(&path, &new.bytes).and_then(|()| {
            if new.replace {
                return Ok(self.store()?.replace_secret(&row)?);
            }
            self.store()?.insert_secret(&row).map(|()| None).map_err(|error| match error {
                StoreError::NameTaken { name } => EngineError::SecretExists { secret: name },
                other => other.into(),
            })
        });
        match recorded {
            Ok(None) => {}
            Ok(Some(old)) => remove_file(&self.paths().secret(&old)),
            Err(error) => {
                remove_file(&path);
                return Err(error);
            }
        }
        self.record_event(EventKind::Secret, "create", &row.id, &row.name);
        Ok(Secret { row, definition })
    }

    /// All secrets, oldest first, with the containers that use them.
    ///
    /// # Errors
    /// Those of the store.
    pub fn secrets(&self) -> Result<Vec<(Secret, Vec<User>)>, EngineError> {
        let mut users = self.store()?.secret_users()?;
        let secret = |row: SecretRow| {
            let users = users.remove(&row.id).unwrap_or_default();
            Ok((read(row)?, users))
        };
        self.store()?.secrets()?.into_iter().map(secret).collect()
    }

    /// Finds a secret by name, id, or at least twelve digits that only its id begins with.
    ///
    /// # Errors
    /// [`EngineError::SecretNotFound`], [`EngineError::SecretAmbiguous`].
    pub fn find_secret(&self, name: &str) -> Result<Secret, EngineError> {
        read(self.store()?.find_secret(name)?.one(
            || EngineError::SecretAmbiguous { secret: name.to_owned() },
            || EngineError::SecretNotFound { secret: name.to_owned() },
        )?)
    }

    /// The containers that use a secret.
    ///
    /// # Errors
    /// Those of the store.
    pub fn users_of_secret(&self, id: &str) -> Result<Vec<User>, EngineError> {
        Ok(self.store()?.secret_users()?.remove(id).unwrap_or_default())
    }

    /// Forgets a secret that no container uses. Blocks the thread.
    ///
    /// # Errors
    /// [`EngineError::SecretNotFound`], [`EngineError::SecretInUse`].
    pub fn remove_secret(&self, name: &str) -> Result<(), EngineError> {
        let row = self.find_secret(name)?.row;
        let _lock = lock_object(&self.paths().locks(), &row.id)?;
        match self.store()?.delete_secret(&row.id) {
            Ok(true) => {}
            Ok(false) => return Err(EngineError::SecretNotFound { secret: name.to_owned() }),
            Err(StoreError::InUse { .. }) => {
                let containers = self.users_of_secret(&row.id)?.into_iter().map(|user| user.name).collect();
                return Err(EngineError::SecretInUse { secret: row.name, containers });
            }
            Err(error) => return Err(error.into()),
        }
        remove_file(&self.paths().secret(&row.id));
        self.record_event(EventKind::Secret, "remove", &row.id, &row.name);
        Ok(())
    }

    /// The ids of the secrets that a new container is to get. It calls them by their names: one that is replaced has
    /// another id.
    pub(super) fn resolve_secrets(&self, spec: &mut ContainerSpec) -> Result<Vec<String>, EngineError> {
        let mut ids = Vec::new();
        for wanted in &mut spec.secrets {
            let row = self.find_secret(&wanted.secret)?.row;
            wanted.secret = row.name;
            ids.push(row.id);
        }
        Ok(ids)
    }

    /// Puts the secrets of a container that starts where its mounts find them.
    pub(super) fn deliver_secrets(
        &self,
        container: &Container,
        users: Option<&UserMap>,
    ) -> Result<Delivered, EngineError> {
        let mut delivered = Delivered::default();
        let directory = self.paths().run_container(&container.row.id).join("secrets");
        // Those of the last start may have been others.
        remove_tree(&directory);
        let definition = &container.definition;
        if definition.spec.secrets.is_empty() {
            return Ok(delivered);
        }
        make(&directory, 0o700)?;
        let outside = |index: usize, uid: u32, gid: u32| {
            let Some(users) = users else { return Ok((uid, gid)) };
            users.user_outside(uid).zip(users.group_outside(gid)).ok_or_else(|| {
                invalid(
                    format!("spec.secrets[{index}].uid"),
                    "its owner is nobody in the container's user namespace",
                )
            })
        };
        // Anybody in the container may look into it; the files say who may read them.
        let files = directory.join("files");
        make(&files, 0o755)?;
        let (placed, credentials) = (directory.join("placed"), directory.join("credentials"));
        make(&placed, 0o700)?;
        make(&credentials, 0o500)?;
        let (mut has_files, mut has_credentials) = (false, false);
        for (index, wanted) in definition.spec.secrets.iter().enumerate() {
            let (row, bytes) = self.bytes_of(&wanted.secret)?;
            match &wanted.kind {
                SecretKind::Env { .. } => delivered.variables.push(variable(index, wanted, bytes)?),
                SecretKind::File { target, uid, gid, mode } => {
                    let target = target.as_deref().unwrap_or(&row.name);
                    let owner = outside(index, *uid, *gid)?;
                    if target.starts_with('/') {
                        let path = placed.join(index.to_string());
                        place(&path, &bytes, owner, *mode)?;
                        delivered.mounts.push(mount(&path, target));
                    } else {
                        place(&files.join(target), &bytes, owner, *mode)?;
                        has_files = true;
                    }
                    let credential = credentials.join(&row.name);
                    if definition.systemd && !credential.exists() {
                        place(&credential, &bytes, outside(index, 0, 0)?, 0o400)?;
                        has_credentials = true;
                    }
                }
            }
        }
        if has_files {
            // First: one with a path of its own may lie in it.
            delivered.mounts.insert(0, mount(&files, TARGET));
        }
        if has_credentials {
            let (uid, gid) = outside(0, 0, 0)?;
            std::os::unix::fs::chown(&credentials, Some(uid), Some(gid))
                .map_err(|source| EngineError::io("give away", &credentials, source))?;
        }
        delivered.credentials = has_credentials.then_some(credentials);
        Ok(delivered)
    }

    /// Where the secrets of a container are mounted, for who only wants to know: none is read or put anywhere, and variables
    /// have no values.
    pub(super) fn places_of_secrets(&self, container: &Container) -> Result<Delivered, EngineError> {
        let mut places = Delivered::default();
        let directory = self.paths().run_container(&container.row.id).join("secrets");
        let mut has_files = false;
        for (index, wanted) in container.definition.spec.secrets.iter().enumerate() {
            match &wanted.kind {
                SecretKind::Env { .. } => {}
                SecretKind::File { target: Some(target), .. } if target.starts_with('/') => {
                    places.mounts.push(mount(&directory.join("placed").join(index.to_string()), target));
                }
                SecretKind::File { .. } => has_files = true,
            }
        }
        if has_files {
            places.mounts.insert(0, mount(&directory.join("files"), TARGET));
        }
        places.variables.extend(variables_of(&container.definition).map(|name| format!("{name}=")));
        let has_credentials = container.definition.systemd && (has_files || !places.mounts.is_empty());
        places.credentials = has_credentials.then(|| directory.join("credentials"));
        Ok(places)
    }

    /// Those secrets of a container that are variables, for another command in it.
    pub(super) fn secret_variables(
        &self,
        container: &Container,
    ) -> Result<BTreeMap<String, String>, EngineError> {
        let mut variables = BTreeMap::new();
        for (index, wanted) in container.definition.spec.secrets.iter().enumerate() {
            if matches!(wanted.kind, SecretKind::Env { .. }) {
                let (_, bytes) = self.bytes_of(&wanted.secret)?;
                let pair = variable(index, wanted, bytes)?;
                if let Some((name, value)) = pair.split_once('=') {
                    variables.insert(name.to_owned(), value.to_owned());
                }
            }
        }
        Ok(variables)
    }

    /// A secret as it could be given again; `None` if there is none of this name. Blocks the thread.
    pub(super) fn secret_as_given(&self, name: &str) -> Result<Option<NewSecret>, EngineError> {
        match self.find_secret(name) {
            Ok(found) if found.row.name == name => {
                let (row, bytes) = self.bytes_of(name)?;
                Ok(Some(NewSecret { name: row.name, bytes, labels: found.definition.labels, replace: true }))
            }
            Ok(_) | Err(EngineError::SecretNotFound { .. } | EngineError::SecretAmbiguous { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn bytes_of(&self, name: &str) -> Result<(SecretRow, Vec<u8>), EngineError> {
        // One that is replaced meanwhile has a new file.
        for _ in 0..3 {
            let row = self.find_secret(name)?.row;
            let path = self.paths().secret(&row.id);
            match std::fs::read(&path) {
                Ok(bytes) => return Ok((row, bytes)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(source) => return Err(EngineError::io("read the secret in", path, source)),
            }
        }
        Err(EngineError::Failed {
            attempted: format!("read the secret {name:?}"),
            reason: "its file is gone; create it again with --replace".to_owned(),
        })
    }

    /// Removes files of secrets that have no record.
    pub(super) fn sweep_secrets(&self) -> Result<(), EngineError> {
        for id in entries(&self.paths().secrets()) {
            if !is_id(&id) || self.store()?.has_secret(&id)? {
                continue;
            }
            let Some(_lock) = try_lock_object(&self.paths().locks(), &id)? else { continue };
            // Again under the lock: it may just have been created.
            if !self.store()?.has_secret(&id)? {
                tracing::info!(id, "removing what an interrupted change of a secret left");
                remove_file(&self.paths().secret(&id));
            }
        }
        Ok(())
    }
}

fn read(row: SecretRow) -> Result<Secret, EngineError> {
    let definition = serde_json::from_str(&row.definition)
        .map_err(|source| StoreError::Damaged { what: format!("secret {:?}", row.name), source })?;
    Ok(Secret { row, definition })
}

/// What is not UTF-8 fits no environment of a specification; what it is is not told, not even where it does not fit.
/// The names of the variables of a container that are secrets.
pub(super) fn variables_of(definition: &super::Definition) -> impl Iterator<Item = &str> {
    definition.spec.secrets.iter().filter_map(|wanted| match &wanted.kind {
        SecretKind::Env { name } => Some(name.as_deref().unwrap_or(&wanted.secret)),
        SecretKind::File { .. } => None,
    })
}

fn variable(index: usize, wanted: &SecretUse, bytes: Vec<u8>) -> Result<String, EngineError> {
    let SecretKind::Env { name } = &wanted.kind else { return Ok(String::new()) };
    let name = name.as_deref().unwrap_or(&wanted.secret);
    match String::from_utf8(bytes) {
        Ok(value) if !value.contains('\0') => Ok(format!("{name}={value}")),
        _ => Err(invalid(
            format!("spec.secrets[{index}]"),
            format!(
                "the secret {:?} holds bytes that no variable can hold; take it as a file",
                wanted.secret
            ),
        )),
    }
}

fn mount(source: &Path, target: &str) -> Value {
    json!({"destination": target, "type": "bind", "source": source,
           "options": ["bind", "rprivate", "nosuid", "nodev", "noexec", "ro"]})
}

fn make(directory: &Path, mode: u32) -> Result<(), EngineError> {
    std::fs::DirBuilder::new()
        .mode(mode)
        .create(directory)
        .and_then(|()| std::fs::set_permissions(directory, PermissionsExt::from_mode(mode)))
        .map_err(|source| EngineError::io("make directory", directory, source))
}

/// Writes what survives a power cut.
fn keep_bytes(path: &Path, bytes: &[u8]) -> Result<(), EngineError> {
    let write = || {
        let mut file = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        match path.parent() {
            Some(directory) => std::fs::File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    };
    write().map_err(|source| EngineError::io("write", path, source))
}

fn place(path: &Path, bytes: &[u8], (uid, gid): (u32, u32), mode: u32) -> Result<(), EngineError> {
    let write = || {
        let mut file = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
        file.write_all(bytes)?;
        std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
        file.set_permissions(PermissionsExt::from_mode(mode))
    };
    write().map_err(|source| EngineError::io("write", path, source))
}

fn remove_file(path: &Path) {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!(?path, %error, "cannot remove the secret, left for the next wake");
        }
        _ => {}
    }
}
