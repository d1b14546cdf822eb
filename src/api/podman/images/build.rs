//! Images from recipes.

use super::super::errors::occurred;
use super::super::{Call, CallError, PodmanInterface, impossible, wire};

impl PodmanInterface {
    pub(super) async fn build_image(&self, call: &mut Call) -> Result<(), CallError> {
        let wire::BuildImage_Args { build } = call.parameters()?;
        if build.contextDir.is_empty() {
            return Err(occurred("unable to open context dir tar file "));
        }
        self.handles.known(&build.contextDir)?;
        if !call.wants_more() {
            return Err(occurred("endpoint requires a more connection"));
        }
        Err(impossible("build an image", "this program does not build yet"))
    }
}
