//! What outlives a boot: which containers are to run again, and which wanted to be gone.
//!
//! The record of a container says since its start that it was left running, until somebody stops it. Containers whose
//! restart policy does not reach beyond a boot, and that are not to be removed at their end, need no such record.

use super::spec::Restart;
use super::{Container, Engine, EngineError, Streams};

/// What became of a container at boot or shutdown.
#[derive(Debug)]
pub struct Handled {
    /// The container's name.
    pub name: String,
    /// Why it could not be done.
    pub result: Result<(), EngineError>,
}

impl Engine {
    pub(super) fn remember_started(&self, container: &Container) -> Result<(), EngineError> {
        let spec = &container.definition.spec;
        if matches!(spec.restart, Restart::Always | Restart::UnlessStopped) || spec.auto_remove {
            self.store()?.set_left_running(&container.row.id, true)?;
        }
        Ok(())
    }

    pub(super) fn remember_stopped(&self, container: &Container) -> Result<(), EngineError> {
        if container.definition.spec.restart == Restart::UnlessStopped {
            self.store()?.set_left_running(&container.row.id, false)?;
        }
        Ok(())
    }

    /// Starts the containers that were running, or would have been started again, when the machine went down, and whose
    /// restart policy reaches beyond a boot.
    ///
    /// # Errors
    /// Those of the store; what a single container says is in its [`Handled`].
    pub async fn start_left_running(&self) -> Result<Vec<Handled>, EngineError> {
        let mut handled = Vec::new();
        for row in self.store()?.containers_left_running()? {
            let result = async {
                let container = self.find(&row.id)?;
                let restart = container.definition.spec.restart;
                if !matches!(restart, Restart::Always | Restart::UnlessStopped)
                    || self.live(&row.id)?.phase.is_alive()
                {
                    return Ok(false);
                }
                self.start(&row.id, Streams::default()).await?;
                Ok(true)
            };
            match result.await {
                Ok(false) => {}
                Ok(true) => handled.push(Handled { name: row.name, result: Ok(()) }),
                Err(error) => handled.push(Handled { name: row.name, result: Err(error) }),
            }
        }
        Ok(handled)
    }

    /// Stops every container that runs, all at once, each by its own signal and in its own time. What is wanted after the
    /// next boot stays as it is. Must run to its end once begun.
    ///
    /// # Errors
    /// Those of the store; what a single container says is in its [`Handled`].
    pub async fn stop_all(&self) -> Result<Vec<Handled>, EngineError> {
        let mut tasks = Vec::new();
        for row in self.store()?.containers()? {
            if !self.live(&row.id)?.phase.is_alive() {
                continue;
            }
            let engine = self.clone();
            tasks.push(tokio::spawn(async move {
                let result = match engine.find(&row.id) {
                    Ok(container) => engine.stop_container(&container, &row.id, None).await.map(drop),
                    Err(error) => Err(error),
                };
                Handled { name: row.name, result }
            }));
        }
        let mut handled = Vec::new();
        for task in tasks {
            handled.push(task.await.map_err(|error| EngineError::Failed {
                attempted: "stop the containers".to_owned(),
                reason: error.to_string(),
            })?);
        }
        Ok(handled)
    }

    /// Removes the containers that wanted to be removed at their end, which the end of the machine came before; and what
    /// interrupted changes left, see [`Self::sweep`].
    ///
    /// # Errors
    /// Those of the store; what a single container says is in its [`Handled`].
    pub async fn clean_up_after_boot(&self) -> Result<Vec<Handled>, EngineError> {
        let mut handled = Vec::new();
        for row in self.store()?.containers_left_running()? {
            let result = async {
                let container = self.find(&row.id)?;
                // One that has a state was started since boot, and its monitor cares for its end.
                if !container.definition.spec.auto_remove || self.live(&row.id)?.told.is_some() {
                    return Ok(false);
                }
                self.remove(&row.id, false, true).await?;
                Ok(true)
            };
            match result.await {
                Ok(false) => {}
                Ok(true) => handled.push(Handled { name: row.name, result: Ok(()) }),
                Err(error) => handled.push(Handled { name: row.name, result: Err(error) }),
            }
        }
        self.sweep()?;
        Ok(handled)
    }
}
