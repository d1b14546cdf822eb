//! Tests of what needs no cgroup.

use super::*;

#[test]
fn paths_that_are_no_cgroup_are_refused() {
    for path in ["", "/", "/a/../b", "..", "/a\nb", "slice:prefix:name"] {
        assert!(matches!(Cgroup::open(path), Err(CgroupError::Path { .. })), "{path:?}");
    }
    assert_eq!(Cgroup::open("/dormouse//x").unwrap().relative, Path::new("dormouse/x"));
}

#[test]
fn device_rules_are_written_in_v1s_words() {
    let rules: Vec<String> =
        crate::runtime::defaults::device_rules().iter().take(4).map(v1_device_rule).collect();
    assert_eq!(rules, ["a *:* rwm", "c *:* m", "b *:* m", "c 1:3 rwm"]);
}

#[test]
fn keyed_files_are_read_by_their_keys() {
    assert_eq!(keyed("populated 1\nfrozen 0\n", "frozen"), Some(0));
    assert_eq!(keyed("oom_kill_disable 0\noom_kill 3\n", "oom_kill"), Some(3));
    assert_eq!(keyed("a 1", "b"), None);
}
