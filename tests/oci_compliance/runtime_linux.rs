//! runtime-linux.md: "Linux Runtime".

use crate::oci_support::Bundle;

#[test]
fn file_descriptors() {
    // One more is the directory that ls itself reads.
    let Some(bundle) = Bundle::sh("ls /proc/self/fd | wc -l") else { return };
    assert_eq!(bundle.run().good(), "4\n");
}

#[test]
fn dev_symbolic_links() {
    let Some(bundle) = Bundle::sh("for l in fd stdin stdout stderr ptmx; do readlink /dev/$l; done") else {
        return;
    };
    let expected = "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n";
    assert_eq!(bundle.run().good(), expected);
}
