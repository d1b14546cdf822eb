//! Images.

mod build;
mod change;
mod commit;
mod document;
mod list;
mod runlabel;
mod transfer;
mod tree;

use super::{Call, CallError, PodmanInterface};

impl PodmanInterface {
    pub(super) async fn image_call(&self, call: &mut Call) -> Result<(), CallError> {
        match call.method() {
            "ListImages" => self.list_images(call).await,
            "ListImagesWithFilters" => self.list_images_filtered(call).await,
            "GetImage" => self.get_image(call).await,
            "ImageExists" => self.image_exists(call).await,
            "InspectImage" => self.inspect_image(call).await,
            "HistoryImage" => self.history_image(call).await,
            "TagImage" => self.tag_image(call).await,
            "UntagImage" => self.untag_image(call).await,
            "RemoveImage" => self.remove_image(call).await,
            "RemoveImageWithResponse" => self.remove_image_with_response(call).await,
            "DeleteUnusedImages" => self.delete_unused_images(call).await,
            "ImagesPrune" => self.prune_images(call).await,
            "PullImage" => self.pull_image(call).await,
            "PushImage" => self.push_image(call).await,
            "SearchImages" => self.search_images(call).await,
            "ImageSave" => self.save_image(call).await,
            "ExportImage" => self.export_image(call).await,
            "LoadImage" => self.load_image(call).await,
            "ImportImage" => self.import_image(call).await,
            "Commit" => self.commit(call).await,
            "BuildImage" => self.build_image(call).await,
            "ImageTree" => self.image_tree(call).await,
            "GetLayersMapWithImageInfo" => self.layers_map(call).await,
            "BuildImageHierarchyMap" => self.image_hierarchy(call).await,
            "ContainerRunlabel" => self.run_label(call).await,
            "Diff" => self.diff(call).await,
            _ => Err(CallError::MethodNotImplemented),
        }
    }
}
