//! What a Containerfile says, without doing any of it: instructions with their lines ([`Containerfile`]), words with
//! variables in them ([`words`]), and patterns of paths ([`patterns`]).
//!
//! A Containerfile may come from a stranger: every input is either understood, or refused with the line that is wrong.
//! Nothing here touches a file system. The steps are carried out by [`crate::engine`].

mod containerfile;
mod heredoc;
pub mod patterns;
pub mod words;

pub use containerfile::{Containerfile, Flag, Instruction, Keyword, SyntaxError, exec_form};
pub use heredoc::Heredoc;
