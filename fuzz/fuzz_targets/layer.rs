//! Unpacking: whatever the archive, nothing outside its layer changes, nothing is left of one that is refused, and one
//! that is taken comes out again as it went in.
//!
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run layer fuzz/corpus/layer fuzz/seeds/layer`
#![no_main]

use std::fs;
use std::io::{Cursor, Read};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;

use libfuzzer_sys::fuzz_target;

// Only this module is built and instrumented.
#[allow(dead_code, unused_imports)]
#[path = "../../src/image/mod.rs"]
mod image;

use image::{LayerStore, Limits};

fn home() -> &'static Path {
    static HOME: OnceLock<tempfile::TempDir> = OnceLock::new();
    HOME.get_or_init(|| {
        let home = tempfile::tempdir().expect("a directory can be made");
        fs::write(home.path().join("victim"), "untouched").expect("a file can be made");
        home
    })
    .path()
}

fuzz_target!(|input: &[u8]| {
    let store = LayerStore::open(home()).expect("the store can be opened");
    let limits = Limits {
        entries_max: 1000,
        size_bytes_max: Some(1 << 20),
        end_marker_required: input.len() % 2 == 0,
        ..Limits::default()
    };
    let imported = store.import(Cursor::new(input), &limits, &mut |_| {}, &AtomicBool::new(false));
    if let Ok(layer) = imported {
        let mut again = Vec::new();
        store
            .tar(&layer.diff_id)
            .expect("a layer has a record")
            .take(64 << 20)
            .read_to_end(&mut again)
            .expect("the record fits the layer");
        let compressed = input.starts_with(&[0x1f, 0x8b]) || input.get(1..4) == Some(&[0xb5, 0x2f, 0xfd]);
        let compressed = compressed || input.get(1..4) == Some(&[0x2a, 0x4d, 0x18]);
        assert!(compressed || again == input, "the tar is another one");
        store.remove(&layer.diff_id).expect("a layer can be removed");
    }
    for name in ["layers", "records"] {
        assert_eq!(fs::read_dir(home().join(name)).expect("it is there").count(), 0, "left in {name}");
    }
    assert_eq!(fs::read_dir(home()).expect("it is there").count(), 3);
    assert_eq!(fs::read(home().join("victim")).expect("it is there"), b"untouched");
});
