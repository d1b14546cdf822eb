//! The layers of an image, drawn for a person.

use std::fmt::Write as _;

use crate::api::looked_up;
use crate::engine::{Engine, EngineError, Image};

use super::super::errors::failed_anyhow;
use super::super::text::size;
use super::super::{Call, CallError, PodmanInterface, bare, wire};
use super::list::find;

impl PodmanInterface {
    pub(super) async fn image_tree(&self, call: &mut Call) -> Result<(), CallError> {
        let given: wire::ImageTree_Args = call.parameters()?;
        let engine = self.engine.clone();
        let tree = looked_up(move || draw(&engine, &given.name, given.whatRequires));
        call.reply(wire::ImageTree_Reply { tree: tree.await.map_err(failed_anyhow)? }).await
    }
}

fn draw(engine: &Engine, name: &str, what_requires: bool) -> Result<String, EngineError> {
    let image = find(engine, name)?;
    let all = engine.images()?;
    let mut text = String::new();
    // Writing to a String can't fail.
    let _ = writeln!(text, "Image ID: {}", &bare(&image.row.id)[..12]);
    let _ = writeln!(text, "Tags:     [{}]", image.row.names.join(" "));
    let _ = writeln!(text, "Size:     {}", size(image.row.size_bytes));
    let _ = writeln!(text, "Image Layers");
    let sizes: Vec<(String, i64)> = engine
        .image_history(&image.row.id)?
        .into_iter()
        .rev()
        .filter_map(|entry| Some((entry.layer?, entry.size_bytes)))
        .collect();
    let last = sizes.len().saturating_sub(1);
    for (number, (layer, bytes)) in sizes.iter().enumerate() {
        let branch = if number == last { "└──" } else { "├──" };
        let ends = all.iter().filter(|other| other.row.layers == image.row.layers[..=number]);
        let _ =
            writeln!(text, "{branch} ID: {} Size: {:>9}{}", &bare(layer)[..12], size(*bytes), top_of(ends));
    }
    if what_requires {
        let built = all.iter().filter(|other| {
            other.row.layers.len() > image.row.layers.len() && other.row.layers.starts_with(&image.row.layers)
        });
        for other in built {
            let _ =
                writeln!(text, "    └── {}{}", &bare(&other.row.id)[..12], top_of(std::iter::once(other)));
        }
    }
    Ok(text)
}

fn top_of<'a>(images: impl Iterator<Item = &'a Image>) -> String {
    let names: Vec<&str> = images.flat_map(|image| &image.row.names).map(String::as_str).collect();
    if names.is_empty() { String::new() } else { format!(" Top Layer of: [{}]", names.join(" ")) }
}
