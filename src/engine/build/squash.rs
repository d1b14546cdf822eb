//! One layer in place of all that a build has added.

use std::os::fd::{AsFd, BorrowedFd};

use super::Build;
use super::draft::Draft;
use super::trouble::StepError;
use crate::engine::changes::{merged, names, open_directory};
use crate::image::{LayerTree, Rewrite, TreeKind, tree_tar_as};

impl Build<'_> {
    /// Puts the layers above the first `kept` into one.
    pub(super) fn squash(&self, draft: &mut Draft, kept: usize) -> Result<(), StepError> {
        if draft.layers.len() <= kept + 1 {
            return Ok(());
        }
        let (base, new) = draft.layers.split_at(kept);
        // What the new ones show alone; what they take away is found by a comparison with what there is in the end.
        let added = merged(&self.directories(new)?)?;
        let before = merged(&self.directories(base)?)?;
        let after = merged(&self.directories(&draft.layers)?)?;
        let deleted = |directory: &[u8]| deleted(before.as_fd(), after.as_fd(), directory);
        let rewrite = Rewrite { mtime: self.request.timestamp_sec, ..Rewrite::default() };
        let tree = LayerTree { kind: TreeKind::Root, rewrite, deleted: &deleted };
        let layer = self.engine.import_tree("squash the layers", &self.stop, |out| {
            tree_tar_as(added.as_fd(), tree, out, &|_| false, &self.stop, &mut |_| {})
        })?;
        draft.squash(kept, layer.diff_id);
        Ok(())
    }
}

/// The names that a directory had and has no more.
fn deleted(before: BorrowedFd<'_>, after: BorrowedFd<'_>, directory: &[u8]) -> Vec<Vec<u8>> {
    let path = [b"/", directory].concat();
    let names_in = |root| match open_directory(root, &path) {
        Ok(Some(directory)) => names(&directory).unwrap_or_default(),
        _ => Vec::new(),
    };
    let still = names_in(after);
    let mut gone: Vec<Vec<u8>> = names_in(before).into_iter().filter(|name| !still.contains(name)).collect();
    gone.sort_unstable();
    gone
}
