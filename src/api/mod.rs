//! One file per varlink interface: wire types in, engine calls out, and no logic of its own.

#[allow(missing_docs, missing_debug_implementations, unused, non_snake_case, non_camel_case_types, clippy::all, clippy::unwrap_used, clippy::cast_possible_truncation)] // generated
pub mod wire {
    //! The types of `interfaces/*.varlink`, as the build script generates them.
    pub mod container {
        include!(concat!(env!("OUT_DIR"), "/io.dormouse.Container.rs"));
    }
    pub mod image {
        include!(concat!(env!("OUT_DIR"), "/io.dormouse.Image.rs"));
    }
    pub mod manager {
        include!(concat!(env!("OUT_DIR"), "/io.dormouse.Manager.rs"));
    }
    pub mod unit {
        include!(concat!(env!("OUT_DIR"), "/io.dormouse.Unit.rs"));
    }
}
