//! What is wrong with a step: what the engine says, with the place in the Containerfile.

use crate::engine::EngineError;
use crate::image::ImageError;
use crate::image::build::{Instruction, SyntaxError};

/// A step that can't be done.
#[derive(Debug)]
pub(super) enum StepError {
    /// It makes no sense, or its command has failed.
    Refused { line: usize, instruction: String, reason: String },
    /// Something else: whatever of it is the step's gets its place later.
    Engine(EngineError),
}

/// A step that makes no sense.
pub(super) fn refused(instruction: &Instruction, reason: impl Into<String>) -> StepError {
    StepError::Refused { line: instruction.line, instruction: instruction.to_string(), reason: reason.into() }
}

impl From<EngineError> for StepError {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl From<ImageError> for StepError {
    fn from(error: ImageError) -> Self {
        Self::Engine(crate::engine::images::from_image_error(error))
    }
}

impl From<crate::store::StoreError> for StepError {
    fn from(error: crate::store::StoreError) -> Self {
        Self::Engine(error.into())
    }
}

impl From<SyntaxError> for StepError {
    fn from(error: SyntaxError) -> Self {
        Self::Refused { line: error.line, instruction: error.instruction, reason: error.reason }
    }
}

impl StepError {
    /// The error of the whole build. `at` is the step, if it is known; `output` the end of what it has written.
    pub fn in_file(self, file: &str, at: Option<&Instruction>, output: String) -> EngineError {
        let (line, instruction, reason) = match self {
            Self::Refused { line, instruction, reason } => (line, instruction, reason),
            // These are no matter of the Containerfile.
            Self::Engine(error @ (EngineError::Cancelled | EngineError::StorageFull { .. })) => return error,
            Self::Engine(error) => match at {
                Some(at) => (at.line, at.to_string(), error.full_text()),
                None => return error,
            },
        };
        let instruction = instruction.chars().take(400).collect();
        EngineError::BuildFailed { file: file.to_owned(), line, instruction, reason, output }
    }
}
