//! varlink
