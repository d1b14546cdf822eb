//! Generates the varlink wire types from `interfaces/`, and says how the program is linked.

fn main() {
    // A program at a fixed address needs no relocation at start: the pages that it would dirty are what a monitor weighs.
    println!("cargo::rustc-link-arg-bin=dormouse=-no-pie");
    varlink_generator::cargo_build_many(&[
        "interfaces/io.dormouse.Container.varlink",
        "interfaces/io.dormouse.Unit.varlink",
        "interfaces/io.dormouse.Image.varlink",
        "interfaces/io.dormouse.Network.varlink",
        "interfaces/io.dormouse.Volume.varlink",
        "interfaces/io.dormouse.Secret.varlink",
        "interfaces/io.dormouse.Manager.varlink",
        "interfaces/io.podman.varlink",
    ]);
}
