//! Generates the varlink wire types from `interfaces/`.

fn main() {
    varlink_generator::cargo_build_many(&[
        "interfaces/io.dormouse.Container.varlink",
        "interfaces/io.dormouse.Unit.varlink",
        "interfaces/io.dormouse.Image.varlink",
        "interfaces/io.dormouse.Manager.varlink",
    ]);
}
