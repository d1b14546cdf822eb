//! The types of `interfaces/*.varlink`, as the build script generates them, for both ends of the wire.
#![allow(
    missing_docs,
    missing_debug_implementations,
    non_snake_case,
    non_camel_case_types,
    unused_imports,
    dead_code,
    unused_variables,
    clippy::all,
    clippy::unwrap_used,
    clippy::cast_possible_truncation
)] // generated

pub mod container {
    include!(concat!(env!("OUT_DIR"), "/io.dormouse.Container.rs"));
}
pub mod image {
    include!(concat!(env!("OUT_DIR"), "/io.dormouse.Image.rs"));
}
pub mod manager {
    include!(concat!(env!("OUT_DIR"), "/io.dormouse.Manager.rs"));
}
pub mod network {
    include!(concat!(env!("OUT_DIR"), "/io.dormouse.Network.rs"));
}
pub mod unit {
    include!(concat!(env!("OUT_DIR"), "/io.dormouse.Unit.rs"));
}
pub mod podman {
    include!(concat!(env!("OUT_DIR"), "/io.podman.rs"));
}
pub mod volume {
    include!(concat!(env!("OUT_DIR"), "/io.dormouse.Volume.rs"));
}
pub mod secret {
    include!(concat!(env!("OUT_DIR"), "/io.dormouse.Secret.rs"));
}
