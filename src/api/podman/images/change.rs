//! Names of images, and their end.

use crate::api::{looked_up, ordered};
use crate::engine::{Engine, EngineError};

use super::super::errors::failed;
use super::super::{Call, CallError, PodmanInterface, bare, wire};
use super::list::find;

impl PodmanInterface {
    pub(super) async fn tag_image(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::TagImage_Args = call.parameters()?;
        let engine = self.engine.clone();
        let image = looked_up(move || {
            let image = find(&engine, &given.name)?;
            engine.tag_image(&image.row.id, &given.tagged)?;
            Ok(bare(&image.row.id).to_owned())
        });
        call.reply(wire::TagImage_Reply { image: image.await.map_err(failed)? }).await
    }

    pub(super) async fn untag_image(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::UntagImage_Args = call.parameters()?;
        let engine = self.engine.clone();
        let image = looked_up(move || {
            let image = find(&engine, &given.name)?;
            if find(&engine, &given.tag)?.row.id != image.row.id {
                let reason = format!("{:?} is no name of {:?}", given.tag, given.name);
                return Err(EngineError::InvalidSpec { field: "tag".to_owned(), reason });
            }
            engine.untag_image(&given.tag)?;
            Ok(bare(&image.row.id).to_owned())
        });
        call.reply(wire::UntagImage_Reply { image: image.await.map_err(failed)? }).await
    }

    pub(super) async fn remove_image(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::RemoveImage_Args = call.parameters()?;
        let (image, _) = self.remove_one_image(call, given.name, given.force).await?;
        call.reply(wire::RemoveImage_Reply { image }).await
    }

    pub(super) async fn remove_image_with_response(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::RemoveImageWithResponse_Args = call.parameters()?;
        let (_, response) = self.remove_one_image(call, given.name, given.force).await?;
        call.reply(wire::RemoveImageWithResponse_Reply { response }).await
    }

    /// With `force` the containers that are made from it go first.
    async fn remove_one_image(
        &self,
        call: &mut Call,
        name: String,
        force: bool,
    ) -> Result<(String, wire::RemoveImageResponse), CallError> {
        let engine = self.engine.clone();
        let removed = ordered(call, async move {
            let (looking, wanted) = (engine.clone(), name.clone());
            let before = looked_up(move || find(&looking, &wanted)).await?;
            loop {
                let (removing, wanted) = (engine.clone(), name.clone());
                match looked_up(move || removing.remove_image(&wanted)).await {
                    Ok(deleted) => return Ok((deleted, names_that_went(&engine, &before), before.row.id)),
                    Err(EngineError::ImageInUse { containers, .. }) if force && !containers.is_empty() => {
                        for container in containers {
                            match engine.remove(&container, true, false).await {
                                Ok(()) | Err(EngineError::NotFound { .. }) => {}
                                Err(error) => return Err(error),
                            }
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
        });
        let (deleted, untagged, id) = removed.await.map_err(failed)?;
        let deleted = deleted.map(|id| bare(&id).to_owned()).unwrap_or_default();
        Ok((bare(&id).to_owned(), wire::RemoveImageResponse { untagged, deleted }))
    }

    pub(super) async fn delete_unused_images(&self, call: &mut Call) -> Result<(), CallError> {
        let images = self.prune(call, true).await?;
        call.reply(wire::DeleteUnusedImages_Reply { images }).await
    }

    pub(super) async fn prune_images(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::ImagesPrune_Args = call.parameters()?;
        let pruned = self.prune(call, given.all).await?;
        call.reply(wire::ImagesPrune_Reply { pruned }).await
    }

    async fn prune(&self, call: &mut Call, all: bool) -> Result<Vec<String>, CallError> {
        let engine = self.engine.clone();
        let pruned = ordered(call, looked_up(move || engine.prune_images(all))).await.map_err(failed)?;
        Ok(pruned.images.iter().map(|id| bare(id).to_owned()).collect())
    }
}

/// The names that an image has had, and has no more.
fn names_that_went(engine: &Engine, before: &crate::engine::Image) -> Vec<String> {
    let left = find(engine, &before.row.id).map(|image| image.row.names).unwrap_or_default();
    before.row.names.iter().filter(|name| !left.contains(name)).cloned().collect()
}
