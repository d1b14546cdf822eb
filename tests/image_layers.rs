//! Layers: what an archive becomes on the disk, and what a hostile or broken one does not.

#![allow(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test that panics has failed")]

mod image_support;

use std::{
    fs,
    io::{self, Cursor, Read},
    os::unix::fs::{FileTypeExt, MetadataExt, symlink},
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use dormouse::image::{
    DescriptorReader, Digest, ImageError, ImportedLayer, LayerStore, Limits, Progress, Whiteouts,
};
use image_support::{Archive, Home, is_root, run, special_tree, tree};

fn import(home: &Home, archive: &[u8]) -> Result<ImportedLayer, ImageError> {
    import_with(home, archive, &Limits::default())
}

fn import_with(home: &Home, archive: &[u8], limits: &Limits) -> Result<ImportedLayer, ImageError> {
    let store = LayerStore::open(home.path()).unwrap();
    store.import(Cursor::new(archive), limits, &mut |_| {}, &AtomicBool::new(false))
}

fn unpacked(home: &Home, archive: &[u8]) -> std::path::PathBuf {
    let layer = import(home, archive).unwrap();
    LayerStore::open(home.path()).unwrap().path(&layer.diff_id)
}

#[test]
fn a_tree_is_unpacked_exactly_as_gnu_tar_unpacks_it_in_every_format_and_compression() {
    if !is_root("owners and devices") {
        return;
    }
    let home = Home::new();
    let source = home.path().join("source");
    // One of everything, and a part of this very machine.
    special_tree(&source);
    run(Command::new("cp").args(["-a", "/usr/lib/systemd"]).arg(&source));
    for (format, options) in [
        ("gnu", &["--format=gnu"][..]),
        ("gnu, sparse", &["--format=gnu", "--sparse"]),
        ("pax", &["--format=posix", "--xattrs", "--xattrs-include=*"]),
        ("pax, sparse 1.0", &["--format=posix", "--sparse", "--xattrs", "--xattrs-include=*"]),
        ("pax, sparse 0.1", &["--format=posix", "--sparse", "--sparse-version=0.1"]),
        ("pax, sparse 0.0", &["--format=posix", "--sparse", "--sparse-version=0.0"]),
    ] {
        let archive = home.path().join("archive.tar");
        run(Command::new("tar")
            .args(options)
            .args(["--numeric-owner", "-cf"])
            .arg(&archive)
            .arg("-C")
            .arg(&source)
            .arg("."));
        let expected = home.path().join("expected");
        fs::create_dir(&expected).unwrap();
        run(Command::new("tar")
            .args(["--numeric-owner", "--same-owner", "--xattrs", "--xattrs-include=*", "-xpf"])
            .arg(&archive)
            .arg("-C")
            .arg(&expected));
        let plain = fs::read(&archive).unwrap();
        let layer = import(&home, &plain).unwrap();
        assert!(layer.newly_made, "{format}");
        assert_eq!(layer.diff_id, Digest::of(&plain), "{format}");
        assert_eq!(layer.warnings, Vec::<String>::new(), "{format}");
        let path = LayerStore::open(home.path()).unwrap().path(&layer.diff_id);
        let (mut found, expected_tree) = (tree(&path), tree(&expected));
        // Long runs of zeros become holes here, and stay zeros there.
        for (name, node) in &mut found {
            assert!(
                node.has_holes || !expected_tree.get(name).is_some_and(|node| node.has_holes),
                "{name:?}"
            );
            node.has_holes = expected_tree.get(name).is_some_and(|node| node.has_holes);
        }
        assert!(expected_tree.len() > 200);
        for (name, node) in &expected_tree {
            assert!(found.get(name) == Some(node), "{format}: {name:?}: {:?}, not {node:?}", found.get(name));
        }
        assert_eq!(found.len(), expected_tree.len(), "{format}");
        for compressor in ["gzip", "zstd"] {
            if format != "pax" {
                continue;
            }
            let compressed = run(Command::new(compressor).args(["-1", "-c"]).arg(&archive));
            let again = import(&home, &compressed).unwrap();
            assert_eq!(
                (again.diff_id, again.newly_made),
                (layer.diff_id.clone(), false),
                "{format}, {compressor}"
            );
            assert_eq!(again.compressed_bytes, compressed.len() as u64);
        }
        fs::remove_dir_all(&expected).unwrap();
        LayerStore::open(home.path()).unwrap().remove(&layer.diff_id).unwrap();
    }
    home.assert_no_layers();
}

#[test]
fn no_name_leads_out_of_the_layer() {
    let home = Home::new();
    let outside = home.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("kept"), "original").unwrap();
    let out = outside.to_str().unwrap();
    let up = format!("{}{out}", "../".repeat(12));
    for (what, archive, allowed) in [
        ("..", Archive::new().file("../outside/kept", "bad"), false),
        (".. inside", Archive::new().file("a/../../outside/kept", "bad"), false),
        ("an absolute name", Archive::new().file(&format!("{out}/kept"), "bad"), true),
        ("a link, then through it", Archive::new().symlink("a", out).file("a/kept", "bad"), true),
        ("a relative link, then through it", Archive::new().symlink("a", &up).file("a/kept", "bad"), true),
        (
            "two links, then through them",
            Archive::new().symlink("a", &up).symlink("b", "a").file("b/kept", "bad"),
            true,
        ),
        ("a link, then a directory over it", Archive::new().symlink("a", out).directory("a/b", 0o777), true),
        (
            "a link as the file itself",
            Archive::new().symlink("a", &format!("{out}/kept")).file("a", "bad"),
            true,
        ),
        ("a hard link up", Archive::new().hard_link("a", &up).file("a", "bad"), false),
        (
            "a hard link, absolute",
            Archive::new().hard_link("a", &format!("{out}/kept")).file("a", "bad"),
            false,
        ),
        (
            "a hard link through a link",
            Archive::new().symlink("d", out).hard_link("a", "d/kept").file("a", "bad"),
            false,
        ),
        (
            "a hard link to a link",
            Archive::new().symlink("s", &format!("{out}/kept")).hard_link("h", "s").file("h", "bad"),
            true,
        ),
        ("a magic link", Archive::new().symlink("p", "/proc/self/cwd").file("p/kept", "bad"), true),
        ("a whiteout up", Archive::new().file("../outside/.wh.kept", ""), false),
        ("a whiteout through a link", Archive::new().symlink("a", out).file("a/.wh.kept", ""), true),
        ("a whiteout of ..", Archive::new().file("a/.wh...", ""), false),
        (
            "an opaque directory through a link",
            Archive::new().symlink("a", out).file("a/.wh..wh..opq", ""),
            true,
        ),
        (
            "a directory replaced by a link meanwhile",
            Archive::new().directory("a", 0o755).file("a/x", "").symlink("a", out).file("a/kept", "bad"),
            true,
        ),
        (
            "a mode for a directory that became a link",
            Archive::new().directory("a", 0o4777).symlink("a", out),
            true,
        ),
    ] {
        let before = fs::metadata(&outside).unwrap();
        let result = import(&home, &archive.build());
        // A link to nowhere inside makes most of these fail, which is as good as landing inside.
        match &result {
            Ok(_) => assert!(allowed, "{what} was accepted"),
            Err(error) => assert!(
                matches!(
                    error,
                    ImageError::Escapes { .. } | ImageError::BadEntry { .. } | ImageError::Entry { .. }
                ),
                "{what}: {error:?}"
            ),
        }
        assert_eq!(fs::read_to_string(outside.join("kept")).unwrap(), "original", "{what}");
        let after = fs::metadata(&outside).unwrap();
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "{what}");
        assert_eq!((before.mode(), before.mtime()), (after.mode(), after.mtime()), "{what}");
        home.forget_layers();
    }
}

#[test]
fn links_of_the_tree_lead_where_they_would_inside() {
    let home = Home::new();
    let archive = Archive::new()
        .directory("usr", 0o755)
        .directory("usr/lib", 0o755)
        .symlink("lib", "/usr/lib")
        .file("lib/x", "content")
        .build();
    let path = unpacked(&home, &archive);
    assert_eq!(fs::read_to_string(path.join("usr/lib/x")).unwrap(), "content");
    assert!(fs::symlink_metadata(path.join("lib")).unwrap().file_type().is_symlink());
}

#[test]
fn a_later_entry_replaces_an_earlier_one_of_the_same_name() {
    let home = Home::new();
    let archive = Archive::new()
        .file("a", "first")
        .hard_link("other", "a")
        .file("a", "second")
        .directory("d", 0o700)
        .file("d/below", "x")
        .file("d", "now a file")
        .file("e", "x")
        .directory("e", 0o750)
        .symlink("l", "a")
        .directory("l", 0o711)
        .directory("kept", 0o700)
        .file("kept/file", "x")
        .directory("kept", 0o755)
        .build();
    let path = unpacked(&home, &archive);
    let read = |name: &str| fs::read_to_string(path.join(name)).unwrap();
    let mode = |name: &str| fs::symlink_metadata(path.join(name)).unwrap().mode() & 0o7777;
    assert_eq!((read("a"), read("other")), ("second".to_owned(), "first".to_owned()));
    assert_eq!(read("d"), "now a file");
    assert_eq!(mode("e"), 0o750);
    assert_eq!(mode("l"), 0o711);
    assert_eq!((mode("kept"), read("kept/file")), (0o755, "x".to_owned()));
}

#[test]
fn a_hard_link_to_itself_and_one_over_another_file_are_fine_and_one_to_nothing_is_not() {
    let home = Home::new();
    let archive =
        Archive::new().file("a", "x").hard_link("a", "a").file("b", "y").hard_link("b", "./a").build();
    let path = unpacked(&home, &archive);
    let inode = |name: &str| fs::metadata(path.join(name)).unwrap().ino();
    assert_eq!(inode("a"), inode("b"));
    let error = import(&home, &Archive::new().hard_link("a", "missing").build()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "entry \"a\" cannot be unpacked: it is a hard link to \"missing\", which the archive does not have before it"
    );
}

#[test]
fn whiteouts_become_those_of_overlayfs() {
    if !is_root("whiteouts are devices") {
        return;
    }
    let home = Home::new();
    let archive = Archive::new()
        .directory("etc", 0o755)
        .file("etc/.wh.gone", "")
        .file("etc/.wh..wh..opq", "")
        .file("new/.wh.gone", "")
        .file("etc/.wh..wh.plnk", "")
        .file("here", "kept")
        .file(".wh.here", "")
        .file(".wh.again", "")
        .directory("again", 0o755)
        .build();
    let path = unpacked(&home, &archive);
    for name in ["etc/gone", "new/gone"] {
        let metadata = fs::symlink_metadata(path.join(name)).unwrap();
        assert!(metadata.file_type().is_char_device() && metadata.rdev() == 0, "{name}");
    }
    let names = |of: &str| fs::read_dir(path.join(of)).unwrap().count();
    assert_eq!((names("etc"), names("new")), (1, 1));
    assert_eq!(fs::read_to_string(path.join("here")).unwrap(), "kept");
    let opaque = |name: &str| {
        let mut value = [0; 4];
        rustix::fs::lgetxattr(path.join(name), "trusted.overlay.opaque", &mut value[..]).is_ok()
            && value[0] == b'y'
    };
    assert!(opaque("etc") && opaque("again") && !opaque("new"));
    home.forget_layers();
    let limits = Limits { whiteouts: Whiteouts::Drop, ..Limits::default() };
    let layer = import_with(&home, &archive, &limits).unwrap();
    let path = LayerStore::open(home.path()).unwrap().path(&layer.diff_id);
    assert!(!path.join("etc/gone").exists() && path.join("etc").exists());
}

#[test]
fn attributes_that_would_steer_overlayfs_or_the_host_are_left_out_and_told() {
    if !is_root("trusted attributes") {
        return;
    }
    let home = Home::new();
    let archive = Archive::new()
        .pax(&[
            ("SCHILY.xattr.trusted.overlay.redirect", "/etc"),
            ("SCHILY.xattr.security.selinux", "system_u:object_r:shadow_t"),
            ("SCHILY.xattr.security.evm", "x"),
            ("SCHILY.xattr.trusted.mine", "kept"),
        ])
        .file("a", "x")
        .build();
    let layer = import(&home, &archive).unwrap();
    let path = LayerStore::open(home.path()).unwrap().path(&layer.diff_id).join("a");
    let mut names = [0; 256];
    let count = rustix::fs::llistxattr(&path, &mut names).unwrap();
    let names = String::from_utf8_lossy(&names[..count]).into_owned();
    assert!(
        names.contains("trusted.mine") && !names.contains("overlay") && !names.contains("evm"),
        "{names}"
    );
    assert_eq!(layer.warnings.len(), 2, "{:?}", layer.warnings);
}

#[test]
fn an_archive_that_is_cut_off_anywhere_is_refused_and_leaves_nothing() {
    let home = Home::new();
    let archive = Archive::new()
        .directory("d", 0o755)
        .file("d/file", &"content".repeat(200))
        .pax(&[("path", &"long/".repeat(40))])
        .file("x", "y")
        .symlink("l", "d")
        .build();
    let end = archive.len() - 1024;
    for cut in (1..=end).step_by(128).chain([end - 1, end]) {
        let error = import(&home, &archive[..cut]).unwrap_err();
        let expected = if cut < 512 {
            matches!(error, ImageError::NotAnArchive { .. })
        } else {
            matches!(error, ImageError::Truncated { .. })
        };
        assert!(expected, "cut at {cut}: {error:?}");
        home.assert_no_layers();
    }
    let error = import(&home, &archive[..1600]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the archive is cut off after 1600 bytes, inside \"d/file\"; the transfer or the file is incomplete"
    );
    // One zero block is enough, and none if the caller says so.
    assert!(import(&home, &archive[..end + 512]).is_ok());
    let limits = Limits { end_marker_required: false, ..Limits::default() };
    assert!(import_with(&home, &archive[..end], &limits).is_ok());
}

#[test]
fn a_compressed_archive_that_is_cut_off_is_refused_and_leaves_nothing() {
    let home = Home::new();
    let archive = Archive::new().file("file", &"content".repeat(2000)).build();
    let compressed = zstd::encode_all(&archive[..], 1).unwrap();
    for cut in [10, compressed.len() / 2, compressed.len() - 1] {
        let error = import(&home, &compressed[..cut]).unwrap_err();
        assert!(matches!(error, ImageError::DamagedCompression { .. }), "{error:?}");
        home.assert_no_layers();
    }
}

#[test]
fn what_follows_the_end_of_an_archive_is_passed_over_but_counts_for_the_digest() {
    let home = Home::new();
    let mut archive = Archive::new().file("a", "x").build();
    archive.extend_from_slice(&b"garbage".repeat(1000));
    let layer = import(&home, &archive).unwrap();
    assert_eq!(layer.diff_id, Digest::of(&archive));
    assert_eq!(layer.entries, 1);
}

#[test]
fn what_is_no_archive_is_told() {
    let home = Home::new();
    let random: Vec<u8> = (0..4096_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 | 1).collect();
    for bytes in [&b""[..], b"hello", &random] {
        assert!(matches!(import(&home, bytes), Err(ImageError::NotAnArchive { .. })));
    }
    let mut damaged = Archive::new().file("a", "x").file("b", "y").build();
    damaged[1024 + 5] ^= 0xff;
    assert!(matches!(import(&home, &damaged), Err(ImageError::Damaged { offset_bytes: 1536, .. })));
    assert!(matches!(
        import(&home, b"BZh91AY&SY"),
        Err(ImageError::UnsupportedCompression { compression: "bzip2" })
    ));
    home.assert_no_layers();
}

#[test]
fn limits_hold_and_nothing_is_left_behind() {
    let home = Home::new();
    let archive = Archive::new().file("a", &"x".repeat(3000)).file("b/c/d", &"x".repeat(3000)).build();
    for (limits, what) in [
        (Limits { entries_max: 1, ..Limits::default() }, "entries"),
        (Limits { size_bytes_max: Some(5999), ..Limits::default() }, "bytes"),
        (Limits { path_bytes_max: 4, ..Limits::default() }, "path length"),
    ] {
        match import_with(&home, &archive, &limits) {
            Err(ImageError::TooLarge { what: found, .. }) => assert_eq!(found, what),
            other => panic!("{what}: {other:?}"),
        }
        home.assert_no_layers();
    }
    let limits =
        Limits { entries_max: 2, size_bytes_max: Some(6000), path_bytes_max: 5, ..Limits::default() };
    assert_eq!(import_with(&home, &archive, &limits).unwrap().size_bytes, 6000);
}

#[test]
fn headers_that_claim_absurd_sizes_take_no_memory_and_end_in_an_error() {
    let home = Home::new();
    for archive in [
        Archive::new().claim(b'L', "././@LongLink", 1 << 40),
        Archive::new().claim(b'x', "pax", 1 << 40),
        Archive::new().claim(b'g', "pax", 1 << 32),
        Archive::new().claim(b'0', "file", u64::MAX >> 1),
        Archive::new().claim(b'0', "file", u64::MAX),
        Archive::new().pax(&[("size", "18446744073709551615")]).file("a", "x"),
        Archive::new().pax(&[("uid", "4294967295")]).file("a", "x"),
        Archive::new()
            .pax(&[("GNU.sparse.major", "1"), ("GNU.sparse.realsize", "5")])
            .file("a", "99999999\n"),
        Archive::new()
            .pax(&[("GNU.sparse.map", "0,5,3,9"), ("GNU.sparse.size", "9")])
            .file("a", "12345678901234"),
        Archive::new()
            .pax(&[("GNU.sparse.map", "18446744073709551615,1"), ("GNU.sparse.size", "9")])
            .file("a", "1"),
        Archive::new().raw_pax(b"99 path=x\n").file("a", "x"),
        Archive::new().raw_pax(b"0 \n").file("a", "x"),
        Archive::new().raw_pax(b"path=x\n").file("a", "x"),
    ] {
        let error = import(&home, &archive.build()).unwrap_err();
        assert!(
            matches!(
                error,
                ImageError::TooLarge { .. }
                    | ImageError::Truncated { .. }
                    | ImageError::Damaged { .. }
                    | ImageError::BadEntry { .. }
            ),
            "{error:?}"
        );
        home.assert_no_layers();
    }
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    if !is_root("a small file system is mounted") {
        return;
    }
    let home = Home::with_tmpfs("size=1m,nr_inodes=200");
    let large = Archive::new().directory("d", 0o755).file("d/large", &"x".repeat(2 << 20)).build();
    match import(&home, &large) {
        Err(error @ ImageError::NoSpace { .. }) => {
            let text = error.to_string();
            assert!(text.contains("no space left") && text.contains("d/large"), "{text}");
        }
        other => panic!("{other:?}"),
    }
    home.assert_no_layers();
    let mut many = Archive::new();
    for number in 0..300 {
        many = many.file(&format!("f{number}"), "");
    }
    assert!(matches!(import(&home, &many.build()), Err(ImageError::NoSpace { .. })));
    home.assert_no_layers();
    // What fits still goes.
    assert!(import(&home, &Archive::new().file("a", "x").build()).is_ok());
}

/// Delivers a beginning, and then nothing, until the end is asked for.
struct Stalling {
    beginning: Cursor<Vec<u8>>,
    end: Arc<AtomicBool>,
}

impl Read for Stalling {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.beginning.read(buffer)?;
        while count == 0 && !self.end.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(count)
    }
}

#[test]
fn a_stalled_import_is_cancelled_soon_and_leaves_nothing() {
    let home = Home::new();
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let archive = Archive::new().file("a", &"x".repeat(1000)).build();
    rustix::io::write(&writer, &archive[..1200]).unwrap();
    let cancelled = AtomicBool::new(false);
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(300));
            cancelled.store(true, Ordering::Relaxed);
        });
        let store = LayerStore::open(home.path()).unwrap();
        let reader = DescriptorReader::new(reader, &cancelled);
        let result = store.import(reader, &Limits::default(), &mut |_| {}, &cancelled);
        assert!(matches!(result, Err(ImageError::Cancelled)), "{result:?}");
    });
    assert!(began.elapsed() < Duration::from_secs(2));
    drop(writer);
    home.assert_no_layers();
}

#[test]
fn an_import_from_a_pipe_reports_progress_and_ends_with_the_whole_count() {
    let home = Home::new();
    let archive = Archive::new().file("a", &"x".repeat(1 << 20)).file("b", "y").build();
    let size = archive.len() as u64;
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let cancelled = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(move || io::Write::write_all(&mut fs::File::from(writer), &archive).unwrap());
        let mut seen = Vec::new();
        let store = LayerStore::open(home.path()).unwrap();
        let reader = DescriptorReader::new(reader, &cancelled);
        store.import(reader, &Limits::default(), &mut |progress| seen.push(progress), &cancelled).unwrap();
        assert_eq!(seen.last(), Some(&Progress { bytes_read: size, entries: 2 }));
    });
}

#[test]
fn one_sweep_takes_what_a_crash_left_and_leaves_what_is_being_made() {
    let home = Home::new();
    let store = LayerStore::open(home.path()).unwrap();
    let known = import(&home, &Archive::new().file("a", "known").build()).unwrap().diff_id;
    let unknown = import(&home, &Archive::new().file("a", "unknown").build()).unwrap().diff_id;
    fs::create_dir_all(home.path().join("layers/.tmp-1-0/half/made")).unwrap();
    let end = Arc::new(AtomicBool::new(false));
    let beginning = Archive::new().file("a", "slow").build();
    let stalling = Stalling { beginning: Cursor::new(beginning), end: Arc::clone(&end) };
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| {
            store.import(stalling, &Limits::default(), &mut |_| {}, &AtomicBool::new(false)).unwrap().diff_id
        });
        while !home.layer_names().iter().any(|name| name.starts_with(".tmp-") && name != ".tmp-1-0") {
            std::thread::sleep(Duration::from_millis(5));
        }
        let other = LayerStore::open(home.path()).unwrap();
        assert_eq!(other.sweep(|digest| *digest == known).unwrap(), 2);
        end.store(true, Ordering::Relaxed);
        let slow = slow.join().unwrap();
        let mut expected = vec![known.hex().to_owned(), slow.hex().to_owned()];
        expected.sort();
        assert_eq!(home.layer_names(), expected);
        assert!(!store.contains(&unknown) && store.contains(&slow));
    });
    assert_eq!(store.sweep(|_| true).unwrap(), 0);
}

#[test]
fn many_imports_of_one_archive_at_once_make_one_layer() {
    let home = Home::new();
    let archive = Archive::new().file("a", "x").directory("d", 0o755).build();
    let made = std::thread::scope(|scope| {
        let workers: Vec<_> =
            (0..8).map(|_| scope.spawn(|| import(&home, &archive).unwrap().newly_made)).collect();
        workers.into_iter().filter_map(|worker| worker.join().unwrap().then_some(())).count()
    });
    assert_eq!(made, 1);
    assert_eq!(home.layer_names(), [Digest::of(&archive).hex()]);
}

#[test]
fn a_tree_deeper_than_any_path_is_removed_again() {
    let home = Home::new();
    let mut archive = Archive::new();
    let steps = vec!["d"; 100].join("/");
    archive = archive.directory(&steps, 0o755).symlink("link0", &steps);
    for number in 0..15 {
        let link = format!("link{number}");
        archive = archive.directory(&format!("{link}/{steps}"), 0o755);
        // The links are made beside one another, each through the one before it: the tree is 1,600 deep.
        archive = archive.symlink(&format!("link{}", number + 1), &format!("{link}/{steps}"));
    }
    let layer = import(&home, &archive.build()).unwrap();
    LayerStore::open(home.path()).unwrap().remove(&layer.diff_id).unwrap();
    home.assert_no_layers();
}

#[test]
fn the_state_directory_is_for_its_owner_only() {
    let home = Home::new();
    LayerStore::open(&home.path().join("state")).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(&home.path().join("state/layers")), 0o700);
    let path = unpacked(&home, &Archive::new().directory("./", 0o755).file("a", "x").build());
    assert_eq!(mode(&path), 0o755);
    symlink("/nowhere", home.path().join("layers/.tmp-link")).unwrap();
    // A link is nothing of ours.
    assert_eq!(LayerStore::open(home.path()).unwrap().sweep(|_| true).unwrap(), 0);
    assert!(home.path().join("layers/.tmp-link").is_symlink());
}
