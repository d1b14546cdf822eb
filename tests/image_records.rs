//! Layers, made to tars again: to the byte, whatever the archive was like.

#![allow(clippy::unwrap_used, dead_code, reason = "a test that panics has failed; helpers are shared")]

mod image_support;

use std::{
    fs,
    io::{Cursor, Read},
    process::Command,
    sync::atomic::AtomicBool,
};

use dormouse::image::{ImportedLayer, LayerStore, Limits};
use image_support::{Archive, Home, is_root, run, special_tree};

fn import(home: &Home, archive: &[u8]) -> (LayerStore, ImportedLayer) {
    let store = LayerStore::open(home.path()).unwrap();
    let layer =
        store.import(Cursor::new(archive), &Limits::default(), &mut |_| {}, &AtomicBool::new(false)).unwrap();
    (store, layer)
}

fn again(store: &LayerStore, layer: &ImportedLayer) -> Vec<u8> {
    let mut tar = store.tar(&layer.diff_id).unwrap();
    let mut bytes = Vec::new();
    tar.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, tar.length());
    bytes
}

#[test]
fn a_tar_in_any_format_comes_out_as_it_went_in() {
    if !is_root("owners and devices") {
        return;
    }
    let home = Home::new();
    let source = home.path().join("source");
    special_tree(&source);
    run(Command::new("cp").args(["-a", "/usr/lib/systemd"]).arg(&source));
    for options in [
        &["--format=gnu"][..],
        &["--format=gnu", "--sparse"],
        &["--format=posix", "--xattrs", "--xattrs-include=*"],
        &["--format=posix", "--sparse"],
        &["--format=posix", "--sparse", "--sparse-version=0.0"],
    ] {
        let archive = home.path().join("archive.tar");
        run(Command::new("tar")
            .args(options)
            .args(["--numeric-owner", "-cf"])
            .arg(&archive)
            .arg("-C")
            .arg(&source)
            .arg("."));
        let archive = fs::read(archive).unwrap();
        let (store, layer) = import(&home, &archive);
        assert!(again(&store, &layer) == archive, "{options:?}");
        assert!(
            fs::metadata(home.path().join("records").join(layer.diff_id.hex())).unwrap().len()
                < archive.len() as u64 / 4
        );
    }
}

#[test]
fn what_later_entries_replace_is_in_the_tar_as_well() {
    let archives = [
        Archive::new().file("a", "first").file("a", "second").file("a", "third"),
        Archive::new().directory("d", 0o755).file("d/x", "1").file("d/e/y", "2").file("d", "now a file"),
        Archive::new().file("a", "one").hard_link("b", "a").file("a", "two").file("b", "three"),
        // The way to a file leads through a link that goes.
        Archive::new()
            .directory("real", 0o755)
            .symlink("link", "real")
            .file("link/x", "through the link")
            .file("link", "a file"),
        Archive::new()
            .directory("real", 0o755)
            .symlink("link", "real")
            .file("link/x", "through the link")
            .file("real/x", "directly"),
        Archive::new().file("a", "hidden below").file(".wh.a", "").file("a", "again"),
        Archive::new().file(&"long/".repeat(60), "").file(&format!("{}x", "long/".repeat(300)), "deep"),
    ];
    for archive in archives {
        let home = Home::new();
        let archive = archive.build();
        let (store, layer) = import(&home, &archive);
        assert!(again(&store, &layer) == archive);
    }
}

#[test]
fn a_layer_that_has_changed_on_the_disk_is_told() {
    let home = Home::new();
    let (store, layer) = import(&home, &Archive::new().file("a", "content").build());
    fs::write(store.path(&layer.diff_id).join("a"), "CONTENT").unwrap();
    let error = store.tar(&layer.diff_id).unwrap().read_to_end(&mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("has changed on the disk"), "{error}");
}

#[test]
fn a_layer_takes_its_record_along() {
    let home = Home::new();
    let (store, layer) = import(&home, &Archive::new().file("a", "1").file("a", "2").build());
    assert_eq!(fs::read_dir(home.path().join("records")).unwrap().count(), 2);
    store.remove(&layer.diff_id).unwrap();
    assert_eq!(fs::read_dir(home.path().join("records")).unwrap().count(), 0);
    // A crash between the two leaves a record alone, which a sweep takes.
    fs::write(home.path().join("records").join(layer.diff_id.hex()), "").unwrap();
    store.sweep(|_| false).unwrap();
    assert_eq!(fs::read_dir(home.path().join("records")).unwrap().count(), 0);
}
