//! What the tests of images are made of: archives, trees, and a state directory that notices what is left in it.

#![allow(clippy::unwrap_used, dead_code, missing_docs, missing_debug_implementations)]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

/// Says whether the test can run; if not, says so aloud.
pub fn is_root(why: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: needs root: {why}");
    }
    root
}

/// Runs a program that must succeed, and returns its output.
pub fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A state directory.
pub struct Home {
    directory: tempfile::TempDir,
    mounted: bool,
}

impl Home {
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap(), mounted: false }
    }

    pub fn with_tmpfs(options: &str) -> Self {
        let mut home = Self::new();
        run(Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(home.path()));
        home.mounted = true;
        home
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn layer_names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.path().join("layers"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    pub fn assert_no_layers(&self) {
        assert_eq!(self.layer_names(), Vec::<String>::new());
    }

    pub fn forget_layers(&self) {
        fs::remove_dir_all(self.path().join("layers")).unwrap();
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if self.mounted {
            run(Command::new("umount").arg(self.path()));
        }
    }
}

/// An archive, header by header: also such as no tar program would make.
#[derive(Default)]
pub struct Archive(Vec<u8>);

impl Archive {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn file(self, name: &str, content: &str) -> Self {
        self.entry(b'0', name, "", 0o644, content.as_bytes())
    }

    pub fn bytes(self, name: &str, content: &[u8]) -> Self {
        self.entry(b'0', name, "", 0o644, content)
    }

    pub fn directory(self, name: &str, mode: u32) -> Self {
        self.entry(b'5', name, "", mode, b"")
    }

    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(b'2', name, target, 0o777, b"")
    }

    pub fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(b'1', name, target, 0o644, b"")
    }

    /// An extended header for the next entry.
    pub fn pax(self, records: &[(&str, &str)]) -> Self {
        let mut content = Vec::new();
        for (key, value) in records {
            let rest = format!(" {key}={value}\n");
            let mut length = rest.len();
            while length != rest.len() + length.to_string().len() {
                length = rest.len() + length.to_string().len();
            }
            content.extend_from_slice(format!("{length}{rest}").as_bytes());
        }
        self.raw_pax(&content)
    }

    pub fn raw_pax(self, content: &[u8]) -> Self {
        self.entry(b'x', "pax", "", 0o644, content)
    }

    /// A header that claims a size, and nothing behind it.
    pub fn claim(mut self, flag: u8, name: &str, size: u64) -> Self {
        self.header(flag, name, "", 0o644, size);
        self
    }

    pub fn build(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }

    fn entry(mut self, flag: u8, name: &str, link: &str, mode: u32, content: &[u8]) -> Self {
        // GNU's long names, so that no length is a matter here.
        for (flag, text) in [(b'L', name), (b'K', link)] {
            if text.len() > 100 {
                self.header(flag, "././@LongLink", "", 0, text.len() as u64 + 1);
                self.content(&[text.as_bytes(), b"\0"].concat());
            }
        }
        self.header(flag, name, link, mode, content.len() as u64);
        self.content(content);
        self
    }

    fn header(&mut self, flag: u8, name: &str, link: &str, mode: u32, size: u64) {
        let mut header = tar::Header::new_gnu();
        let copy = |from: &str, to: &mut [u8; 100]| {
            let count = from.len().min(to.len());
            to[..count].copy_from_slice(&from.as_bytes()[..count]);
        };
        copy(name, &mut header.as_old_mut().name);
        copy(link, &mut header.as_old_mut().linkname);
        header.as_old_mut().linkflag = [flag];
        header.set_mode(mode);
        header.set_uid(rustix::process::geteuid().as_raw().into());
        header.set_gid(rustix::process::getegid().as_raw().into());
        header.set_mtime(1_700_000_000);
        header.set_size(size);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
    }

    fn content(&mut self, content: &[u8]) {
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }
}

/// Everything about one file that an archive can carry.
#[derive(Debug, PartialEq, Eq)]
pub struct Node {
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    device: u64,
    size: u64,
    content: Option<Vec<u8>>,
    target: Option<PathBuf>,
    /// The first name, in order, of the same inode.
    same_as: Option<PathBuf>,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub has_holes: bool,
}

/// Describes a tree, by paths relative to it.
pub fn tree(root: &Path) -> BTreeMap<PathBuf, Node> {
    let mut nodes = BTreeMap::new();
    let mut inodes = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    let mut paths = Vec::new();
    while let Some(path) = waiting.pop() {
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        paths.push(path);
    }
    paths.sort();
    for path in paths {
        let name = path.strip_prefix(root).unwrap().to_owned();
        let metadata = fs::symlink_metadata(&path).unwrap();
        let kind = metadata.file_type();
        let first = inodes.entry(metadata.ino()).or_insert_with(|| name.clone());
        let node = Node {
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            mtime: (metadata.mtime(), metadata.mtime_nsec()),
            device: if kind.is_char_device() || kind.is_block_device() { metadata.rdev() } else { 0 },
            size: if kind.is_file() { metadata.size() } else { 0 },
            content: kind.is_file().then(|| fs::read(&path).unwrap()),
            target: kind.is_symlink().then(|| fs::read_link(&path).unwrap()),
            same_as: (*first != name).then(|| first.clone()),
            xattrs: xattrs(&path),
            has_holes: kind.is_file() && metadata.blocks() * 512 + (1 << 16) < metadata.size(),
        };
        nodes.insert(name, node);
    }
    nodes
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 64 << 10];
    let count = rustix::fs::llistxattr(path, &mut names).unwrap();
    names.truncate(count);
    let mut found = BTreeMap::new();
    for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 64 << 10];
        let count = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        value.truncate(count);
        found.insert(name.to_owned(), value);
    }
    found
}

/// Makes a tree with one of everything.
pub fn special_tree(root: &Path) {
    let at = |name: &str| root.join("special").join(name);
    fs::create_dir_all(at("d")).unwrap();
    fs::write(at("setuid"), "x").unwrap();
    fs::write(at("capable"), "x").unwrap();
    fs::write(at("attributes"), "x").unwrap();
    fs::write(at("empty"), "").unwrap();
    fs::write(at("d/first"), "hard link").unwrap();
    fs::hard_link(at("d/first"), at("second")).unwrap();
    fs::hard_link(at("d/first"), at("third")).unwrap();
    symlink("/nowhere", at("dangling")).unwrap();
    symlink("d/first", at("relative")).unwrap();
    symlink("x".repeat(200), at("long-target")).unwrap();
    fs::hard_link(at("relative"), at("linked-link")).unwrap();
    let deep = at(&vec!["a-rather-long-name-of-a-directory"; 20].join("/"));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("n".repeat(255)), "deep").unwrap();
    fs::write(root.join("special/name with ä, \u{1f600} and \n"), "x").unwrap();
    for (name, kind, numbers) in
        [("null", "c", &["1", "3"][..]), ("loop", "b", &["7", "200"]), ("fifo", "p", &[])]
    {
        run(Command::new("mknod").arg(at(name)).arg(kind).args(numbers));
    }
    let sparse = fs::File::create(at("sparse")).unwrap();
    sparse.set_len(2 << 20).unwrap();
    for place in [1_u64, 7, 8, 20, 33, 49] {
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"data", place * 40_000).unwrap();
    }
    // More pieces than the header of GNU's old format has room for.
    let pieces = fs::File::create(at("many-pieces")).unwrap();
    for place in 0..60_u64 {
        std::os::unix::fs::FileExt::write_all_at(&pieces, b"data", place << 15).unwrap();
    }
    fs::File::create(at("only-a-hole")).unwrap().set_len(1 << 20).unwrap();
    let mode = |name: &str, mode| fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
    run(Command::new("chown").arg("12345:3000000000").arg(at("setuid")).arg(at("d")));
    run(Command::new("chown").args(["-h", "5:6"]).arg(at("dangling")));
    mode("setuid", 0o6755);
    mode("d", 0o3777);
    mode("empty", 0);
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let set = |name: &str, attribute: &str, value: &[u8]| {
        rustix::fs::lsetxattr(at(name), attribute, value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    set("capable", "security.capability", &capability);
    set("attributes", "user.text", b"with = and \n and \0 inside");
    set("d", "user.of-a-directory", b"x");
    set("null", "trusted.of-a-device", b"x");
    run(Command::new("touch").args(["-d", "1969-12-31T23:59:58.25Z"]).arg(at("setuid")));
    run(Command::new("touch").args(["-h", "-d", "2001-02-03T04:05:06.789Z"]).arg(at("dangling")));
    run(Command::new("touch").args(["-d", "2100-01-01T00:00:00Z"]).arg(at("d")));
}
