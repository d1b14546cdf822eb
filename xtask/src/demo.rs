//! The demonstration.
use crate::program::Result;
#[derive(Debug, clap::Args)]
pub struct Arguments {}
pub fn main(_: &Arguments) -> Result<()> {
    Ok(())
}
