//! What was planned is made. It can't be given up, but it can fail: then what was made goes again.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::super::super::spec::{Mount, MountKind, Namespace};
use super::super::super::{
    Condition, Engine, EngineError, EventKind, LogFilter, NewSecret, NewVolume, Streams, VolumeDefinition,
    blocking,
};
use super::KubePlan;
use super::container::PlannedContainer;
use super::pod::PlannedPod;
use super::security::is_not_root;
use super::sources::NewKey;
use super::volumes::{OnHost, Shared};
use crate::engine::kube::SOURCE_LABEL;

/// What of an init container's last words goes into an error.
const LAST_LINES: usize = 5;

/// What was made.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs)] // told once, in the IDL
pub struct PlayedKube {
    pub pods: Vec<PlayedPod>,
    pub volumes: Vec<String>,
    pub secrets: Vec<String>,
    pub warnings: Vec<String>,
}

/// A pod that was made.
#[derive(Debug, Clone)]
#[allow(missing_docs)] // told once, in the IDL
pub struct PlayedPod {
    pub id: String,
    pub name: String,
    /// Ids and names.
    pub containers: Vec<(String, String)>,
}

/// What goes again if something fails.
#[derive(Default)]
struct Made {
    pods: Vec<String>,
    volumes: Vec<String>,
    secrets: Vec<String>,
    /// What was there before.
    replaced: Vec<NewSecret>,
    on_host: Vec<PathBuf>,
}

impl Engine {
    /// Makes, and starts, what was planned; all of it or nothing. Must run to its end once begun.
    ///
    /// # Errors
    /// With the place in the documents: those of [`Self::create_pod`], [`Self::create`], [`Self::start`],
    /// [`Self::create_volume`] and [`Self::create_secret`].
    pub async fn play_kube(&self, plan: KubePlan) -> Result<PlayedKube, EngineError> {
        self.check_plan(&plan)?;
        if plan.replace {
            for pod in &plan.pods {
                let name = pod.spec.name.as_deref().unwrap_or_default();
                self.remove_played(name).await.map_err(|error| pod.place.of(error))?;
            }
        }
        let mut made = Made::default();
        match self.make_all(plan, &mut made).await {
            Ok(played) => Ok(played),
            Err(error) => {
                self.unmake(made).await;
                Err(error)
            }
        }
    }

    /// What can be found out before anything is removed.
    fn check_plan(&self, plan: &KubePlan) -> Result<(), EngineError> {
        for (place, claim) in &plan.claims {
            claim.definition.check().map_err(|error| place.of(error))?;
        }
        for pod in &plan.pods {
            self.check_pod(&pod.spec).map_err(|error| pod.place.of(error))?;
            let share = pod.spec.share.unwrap_or_default();
            for container in &pod.containers {
                // As it will be in its pod, which has no id yet.
                let mut spec = container.spec.clone();
                let of_pod = || Namespace::Pod(String::new());
                if share.net {
                    spec.network_namespace = Some(of_pod());
                }
                for (is_shared, namespace) in [
                    (share.ipc, &mut spec.ipc_namespace),
                    (share.uts, &mut spec.uts_namespace),
                    (share.pid, &mut spec.pid_namespace),
                ] {
                    if is_shared {
                        *namespace = of_pod();
                    }
                }
                let (definition, _) = self.define(spec).map_err(|error| container.place.of(error))?;
                if let Some(place) = &container.not_root
                    && !is_not_root(&definition.user)
                {
                    let reason = format!(
                        "the user is {:?}, of whom it is not known that it is not root; say it as a number with runAsUser",
                        definition.user
                    );
                    return Err(place.invalid(reason));
                }
            }
            if !plan.replace {
                let name = pod.spec.name.clone().unwrap_or_default();
                if self.find_pod(&name).is_ok_and(|found| found.row.name == name) {
                    return Err(pod.place.of(EngineError::PodExists { pod: name }));
                }
            }
        }
        Ok(())
    }

    async fn make_all(&self, plan: KubePlan, made: &mut Made) -> Result<PlayedKube, EngineError> {
        let mut played = PlayedKube { warnings: plan.warnings, ..PlayedKube::default() };
        for secret in plan.secrets {
            played.secrets.push(secret.name.clone());
            self.make_secret(secret, plan.replace, made).await?;
        }
        for (place, new) in plan.claims {
            let name = new.name.clone().unwrap_or_default();
            let engine = self.clone();
            match blocking(move || engine.create_volume(new)).await {
                Ok(volume) => {
                    made.volumes.push(volume.row.id);
                    played.volumes.push(name);
                }
                // What is in it is what is wanted.
                Err(EngineError::VolumeExists { .. }) => {}
                Err(error) => return Err(place.of(error)),
            }
        }
        let mut pods = Vec::new();
        for pod in plan.pods {
            let (id, name) = self.make_pod(&pod, made).await?;
            let containers = self.make_containers(pod, &name, made, &mut played.warnings).await?;
            pods.push((id, name, containers));
        }
        // All are there before one begins: a later document that is no good has then done nothing.
        for (id, name, containers) in pods {
            let mut kept = Vec::new();
            for (container, created_id, created_name) in containers {
                if container.is_init {
                    self.run_init(&container, &created_id, &created_name).await?;
                    continue;
                }
                if plan.start {
                    match self.start(&created_id, Streams::default()).await {
                        Ok(launched) => played.warnings.extend(launched.warnings),
                        // Somebody else has started it.
                        Err(EngineError::WrongState { .. }) => {}
                        Err(error) => return Err(container.place.of(error)),
                    }
                }
                kept.push((created_id, created_name));
            }
            if plan.start {
                self.record_event(EventKind::Pod, "start", &id, &name);
            }
            played.pods.push(PlayedPod { id, name, containers: kept });
        }
        Ok(played)
    }

    async fn make_secret(&self, secret: NewKey, replace: bool, made: &mut Made) -> Result<(), EngineError> {
        let NewKey { place, name, bytes } = secret;
        let (engine, called) = (self.clone(), name.clone());
        let old = blocking(move || {
            let old = if replace { engine.secret_as_given(&called)? } else { None };
            // Also the mark by which it is known when it goes.
            let labels = [(SOURCE_LABEL.to_owned(), "Secret".to_owned())].into();
            engine.create_secret(NewSecret { name: called, bytes, labels, replace })?;
            Ok(old)
        });
        match old.await.map_err(|error| place.of(error))? {
            Some(old) => made.replaced.push(old),
            None => made.secrets.push(name),
        }
        Ok(())
    }

    async fn make_pod(&self, pod: &PlannedPod, made: &mut Made) -> Result<(String, String), EngineError> {
        for wanted in &pod.volumes.on_host {
            made.on_host.extend(make_on_host(wanted)?);
        }
        let created = self.create_pod(pod.spec.clone()).await.map_err(|error| pod.place.of(error))?;
        made.pods.push(created.row.id.clone());
        Ok((created.row.id, created.row.name))
    }

    /// Its containers, with their ids and names.
    async fn make_containers(
        &self,
        pod: PlannedPod,
        pod_name: &str,
        made: &mut Made,
        warnings: &mut Vec<String>,
    ) -> Result<Vec<(PlannedContainer, String, String)>, EngineError> {
        let PlannedPod { volumes, mut containers, .. } = pod;
        for (index, shared) in volumes.shared.into_iter().enumerate() {
            let is_wanted =
                |container: &PlannedContainer| container.shared.iter().any(|(_, of)| *of == index);
            if !containers.iter().any(is_wanted) {
                continue;
            }
            let engine = self.clone();
            let id = blocking(move || engine.make_shared(shared)).await?;
            made.volumes.push(id.clone());
            for container in &mut containers {
                for (mount, _) in container.shared.iter().filter(|(_, of)| *of == index) {
                    if let MountKind::Volume { name, .. } = &mut container.spec.mounts[*mount].kind {
                        *name = Some(id.clone());
                    }
                }
            }
        }
        let mut created = Vec::new();
        for mut container in containers {
            container.spec.pod = Some(pod_name.to_owned());
            let one = self.create(container.spec.clone()).await.map_err(|error| container.place.of(error))?;
            warnings.extend(one.warnings);
            let (engine, mounts) = (self.clone(), container.spec.mounts.clone());
            let parts = blocking(move || engine.make_parts(&mounts)).await;
            parts.map_err(|error| container.place.below("volumeMounts").of(error))?;
            created.push((container, one.id, one.name));
        }
        Ok(created)
    }

    /// A volume that the pod alone has, with what it holds. Blocks the thread. Its id.
    fn make_shared(&self, shared: Shared) -> Result<String, EngineError> {
        let Shared { place, options, labels, files, parts } = shared;
        let is_directory = options.is_empty();
        let definition = VolumeDefinition { options, labels };
        let volume =
            self.create_volume(NewVolume { name: None, definition }).map_err(|error| place.of(error))?;
        if is_directory {
            // Nobody else sees it yet.
            let filled = fill(&self.volume_path(&volume), &files, &parts);
            if let Err((path, source)) = filled {
                let error = EngineError::io("write", path, source);
                if let Err(left) = self.remove_unused_volume(&volume.row.id) {
                    tracing::warn!(error = left.full_text(), "cannot remove what could not be filled");
                }
                return Err(place.of(error));
            }
        }
        Ok(volume.row.id)
    }

    /// Directories of claims that are mounted by themselves, as Kubernetes makes them. Blocks the thread.
    fn make_parts(&self, mounts: &[Mount]) -> Result<(), EngineError> {
        for mount in mounts {
            let (MountKind::Volume { name: Some(name), .. }, Some(part)) = (&mount.kind, &mount.subpath)
            else {
                continue;
            };
            let volume = self.find_volume(name)?;
            let root = self.volume_path(&volume);
            // One with a file system of its own is there only while a container runs.
            if !volume.row.anonymous && root.starts_with(self.paths().volume(&volume.row.id)) {
                make_below(&root, part)
                    .map_err(|errno| EngineError::io("make", root.join(part), errno.into()))?;
            }
        }
        Ok(())
    }

    async fn run_init(&self, container: &PlannedContainer, id: &str, name: &str) -> Result<(), EngineError> {
        let place = &container.place;
        self.start(id, Streams::default()).await.map_err(|error| place.of(error))?;
        let ended = self.wait_known(id, name, Condition::Exited, None).await;
        let ended = ended.map_err(|error| place.of(error))?;
        if ended.exit_code != Some(0) {
            let mut reason = match ended.exit_code {
                Some(code) => format!("it has ended with the exit code {code}"),
                None => "how it has ended is not known".to_owned(),
            };
            let filter = LogFilter { tail: Some(LAST_LINES), ..LogFilter::default() };
            if let Ok(mut log) = self.logs(id, filter, false)
                && let Ok(lines) = log.next().await
            {
                let lines: Vec<String> = lines.into_iter().map(|line| line.message).collect();
                reason.push_str(&format!(", and has said last: {}", lines.join(" / ")));
            }
            return Err(place.of(EngineError::Failed {
                attempted: format!("run the init container {:?}", container.name),
                reason,
            }));
        }
        match self.remove(id, true, true).await {
            Ok(()) | Err(EngineError::NotFound { .. }) => Ok(()),
            Err(error) => Err(place.of(error)),
        }
    }

    async fn unmake(&self, made: Made) {
        let tell = |error: &EngineError| {
            tracing::warn!(error = error.full_text(), "cannot remove what a failed play has made");
        };
        for pod in made.pods.iter().rev() {
            match self.remove_pod(pod, true).await {
                Ok(()) | Err(EngineError::PodNotFound { .. }) => {}
                Err(error) => tell(&error),
            }
        }
        for volume in made.volumes.iter().rev() {
            match self.remove_volume(volume, false).await {
                // With its container.
                Ok(()) | Err(EngineError::VolumeNotFound { .. }) => {}
                Err(error) => tell(&error),
            }
        }
        let engine = self.clone();
        let secrets = blocking(move || {
            for secret in &made.secrets {
                engine.remove_secret(secret)?;
            }
            for secret in made.replaced {
                engine.create_secret(NewSecret { replace: true, ..secret })?;
            }
            for path in made.on_host.iter().rev() {
                let is_file = std::fs::symlink_metadata(path).is_ok_and(|found| found.is_file());
                // Not with what somebody has put into it meanwhile.
                let removed = match is_file {
                    true if std::fs::metadata(path).is_ok_and(|found| found.len() > 0) => Ok(()),
                    true => std::fs::remove_file(path),
                    false => std::fs::remove_dir(path),
                };
                if let Err(error) = removed {
                    tracing::warn!(?path, %error, "it was made by a failed play, and stays");
                }
            }
            Ok(())
        });
        if let Err(error) = secrets.await {
            tell(&error);
        }
    }
}

/// What of a path was not there, outermost first.
fn make_on_host(wanted: &OnHost) -> Result<Vec<PathBuf>, EngineError> {
    let failed = |source| wanted.place.of(EngineError::io("make", &wanted.path, source));
    let missing = |path: &&Path| std::fs::symlink_metadata(path).is_err();
    let mut made: Vec<PathBuf> = wanted.path.ancestors().take_while(missing).map(Path::to_owned).collect();
    made.reverse();
    match (wanted.is_file, wanted.path.parent()) {
        (true, Some(parent)) => {
            std::fs::create_dir_all(parent).map_err(failed)?;
            match std::fs::File::create_new(&wanted.path) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed(error)),
                _ => {}
            }
        }
        _ => std::fs::create_dir_all(&wanted.path).map_err(failed)?,
    }
    Ok(made)
}

/// Makes the directories of a path that are missing, with the permissions of the root. Containers may change what is there at
/// the same time: nothing leads out of it.
fn make_below(root: &Path, part: &str) -> Result<(), Errno> {
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags, Mode::empty())?;
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&root)?.st_mode);
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let open = |path: &Path| rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve);
    let (mut opened, mut so_far) = (open(Path::new("."))?, PathBuf::new());
    for name in Path::new(part) {
        so_far.push(name);
        opened = match open(&so_far) {
            Err(Errno::NOENT) => {
                match rustix::fs::mkdirat(&opened, name, mode) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno),
                }
                let made = open(&so_far)?;
                rustix::fs::fchmod(&made, mode)?;
                made
            }
            // A file can be a part, too.
            Err(Errno::NOTDIR) => return Ok(()),
            other => other?,
        };
    }
    Ok(())
}

fn fill(
    root: &Path,
    files: &[(String, Vec<u8>, u32)],
    parts: &[String],
) -> Result<(), (PathBuf, std::io::Error)> {
    let set_mode = |path: &Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode & 0o7777))
    };
    let make = |path: PathBuf| std::fs::create_dir_all(&path).map_err(|error| (path, error));
    for (name, bytes, mode) in files {
        let path = root.join(name);
        make(path.parent().unwrap_or(root).to_owned())?;
        std::fs::write(&path, bytes)
            .and_then(|()| set_mode(&path, *mode))
            .map_err(|error| (path.clone(), error))?;
    }
    for part in parts {
        let mut path = root.to_owned();
        for name in Path::new(part) {
            path.push(name);
            make(path.clone())?;
            set_mode(&path, 0o777).map_err(|error| (path.clone(), error))?;
        }
    }
    if files.is_empty() {
        // Whoever a container is, it is its own.
        set_mode(root, 0o777).map_err(|error| (root.to_owned(), error))?;
    }
    Ok(())
}
