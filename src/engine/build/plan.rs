//! Which stages there are, what they stand on, and which of them are needed.

use crate::image::build::words;
use crate::image::build::{Containerfile, Instruction, Keyword};

use super::trouble::{StepError, refused};

/// More stages than anybody writes; each is a thread while it works.
const STAGES_MAX: usize = 256;

/// A stage: a FROM, and what follows it.
#[derive(Debug)]
pub(super) struct Stage {
    /// After AS.
    pub name: Option<String>,
    /// What it begins with.
    pub base: Base,
    /// The FROM itself.
    pub from: Instruction,
    /// All others.
    pub instructions: Vec<Instruction>,
    /// The stages, by index, that must be finished before.
    pub needs: Vec<usize>,
    /// The number of its first step.
    pub first_step: usize,
}

impl Stage {
    /// As it is told of.
    pub fn shown(&self, index: usize) -> String {
        self.name.clone().unwrap_or_else(|| index.to_string())
    }
}

/// What a stage begins with, or something is copied from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Base {
    /// Nothing.
    Scratch,
    /// Another stage, by index.
    Stage(usize),
    /// An image.
    Image(String),
}

/// The stages of a Containerfile.
#[derive(Debug)]
pub(super) struct Plan {
    pub stages: Vec<Stage>,
    /// The index of the one that is to be the image.
    pub target: usize,
    /// By index: it is needed.
    pub wanted: Vec<bool>,
    /// How many steps those have.
    pub steps: usize,
}

impl Plan {
    /// `globals` knows the arguments that are declared before the first FROM.
    pub fn new(
        file: &Containerfile,
        target: Option<&str>,
        globals: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, StepError> {
        let mut stages: Vec<Stage> = Vec::new();
        for instruction in &file.instructions {
            if instruction.keyword == Keyword::From {
                if stages.len() == STAGES_MAX {
                    return Err(refused(instruction, format!("there are more than {STAGES_MAX} stages")));
                }
                let stage = stage(instruction, file.escape, &stages, globals)?;
                stages.push(stage);
                continue;
            }
            // What stands before the first FROM was read for `globals`.
            let Some(index) = stages.len().checked_sub(1) else { continue };
            let needs = sources_of(instruction, &stages[..index]);
            stages[index].needs.extend(needs);
            stages[index].instructions.push(instruction.clone());
        }
        let last = stages.len().saturating_sub(1);
        let target = match target {
            None => last,
            Some(name) => find(&stages, name).ok_or_else(|| {
                let names: Vec<String> =
                    stages.iter().enumerate().map(|(index, stage)| stage.shown(index)).collect();
                StepError::Refused {
                    line: 0,
                    instruction: format!("--target {name}"),
                    reason: format!("there is no stage of this name; there are {}", names.join(", ")),
                }
            })?,
        };
        let mut wanted = vec![false; stages.len()];
        let mut waiting = vec![target];
        while let Some(index) = waiting.pop() {
            if !std::mem::replace(&mut wanted[index], true) {
                waiting.extend(&stages[index].needs);
            }
        }
        let mut steps = 0;
        for (index, stage) in stages.iter_mut().enumerate().filter(|(index, _)| wanted[*index]) {
            debug_assert!(stage.needs.iter().all(|other| *other < index), "a stage needs only earlier ones");
            stage.first_step = steps + 1;
            steps += 1 + stage.instructions.len();
        }
        Ok(Self { stages, target, wanted, steps })
    }
}

fn find(stages: &[Stage], name: &str) -> Option<usize> {
    let by_name = stages
        .iter()
        .rposition(|stage| stage.name.as_ref().is_some_and(|known| known.eq_ignore_ascii_case(name)));
    by_name.or_else(|| name.parse().ok().filter(|index| *index < stages.len()))
}

fn stage(
    instruction: &Instruction,
    escape: char,
    before: &[Stage],
    globals: &dyn Fn(&str) -> Option<String>,
) -> Result<Stage, StepError> {
    let words = words::split(&instruction.rest, escape);
    let (image, name) = match words.as_slice() {
        [image] => (image, None),
        [image, word, name] if word.eq_ignore_ascii_case("as") => (image, Some(name.clone())),
        _ => return Err(refused(instruction, "IMAGE, or IMAGE AS NAME, is wanted")),
    };
    if let Some(name) = &name {
        let first = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic());
        let good =
            name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
        if !first || !good {
            return Err(refused(
                instruction,
                format!("{name:?} is no name of a stage: letters, digits, '_', '-' and '.', a letter first"),
            ));
        }
        if before
            .iter()
            .any(|stage| stage.name.as_ref().is_some_and(|known| known.eq_ignore_ascii_case(name)))
        {
            return Err(refused(instruction, format!("there is a stage {name:?} already")));
        }
    }
    let image =
        words::expand(image, escape, globals).map_err(|error| refused(instruction, error.to_string()))?;
    if image.is_empty() {
        return Err(refused(
            instruction,
            "the image's name is empty; an ARG before the first FROM may lack a default",
        ));
    }
    let by_name = before
        .iter()
        .position(|stage| stage.name.as_ref().is_some_and(|known| known.eq_ignore_ascii_case(&image)));
    let base = match by_name {
        Some(index) => Base::Stage(index),
        None if image == "scratch" => Base::Scratch,
        None => Base::Image(image),
    };
    let needs = if let Base::Stage(index) = base { vec![index] } else { Vec::new() };
    Ok(Stage { name, base, from: instruction.clone(), instructions: Vec::new(), needs, first_step: 0 })
}

/// The stages that `COPY --from` or `RUN --mount=from=` of an instruction refer to; variables have no meaning there.
fn sources_of(instruction: &Instruction, before: &[Stage]) -> Vec<usize> {
    let names: Vec<String> = match instruction.keyword {
        Keyword::Copy => instruction.flag("from").and_then(|flag| flag.value.clone()).into_iter().collect(),
        Keyword::Run => {
            let mounts = instruction.flags.iter().filter(|flag| flag.name == "mount");
            mounts.filter_map(|flag| mount_source(flag.value.as_deref()?)).collect()
        }
        _ => Vec::new(),
    };
    names.iter().filter_map(|name| find(before, name)).collect()
}

/// A stage by its name or number, or an image.
pub(super) fn named(name: &str, before: &[Stage]) -> Base {
    match find(before, name) {
        Some(index) => Base::Stage(index),
        None if name == "scratch" => Base::Scratch,
        None => Base::Image(name.to_owned()),
    }
}

fn mount_source(options: &str) -> Option<String> {
    options.split(',').find_map(|option| option.strip_prefix("from=")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str, target: Option<&str>) -> Result<Plan, StepError> {
        let file = Containerfile::parse(text).unwrap();
        Plan::new(&file, target, &|name| (name == "TAG").then(|| "12".to_owned()))
    }

    #[test]
    fn only_what_the_target_needs_is_built() {
        let text = "ARG TAG\nFROM debian:$TAG AS one\nRUN a\nFROM one AS two\nFROM scratch AS three\n\
                    COPY --from=one /a /b\nCOPY --from=alpine /c /d\nFROM three\nRUN --mount=type=bind,from=two x\n";
        let all = plan(text, None).unwrap();
        assert_eq!(all.stages[0].base, Base::Image("debian:12".into()));
        assert_eq!(all.stages[1].base, Base::Stage(0));
        assert_eq!(all.stages[3].needs, [2, 1]);
        assert_eq!((all.wanted.as_slice(), all.steps), (&[true; 4][..], 8));
        let three = plan(text, Some("Three")).unwrap();
        assert_eq!((three.wanted.as_slice(), three.steps), (&[true, false, true, false][..], 5));
        assert_eq!(three.stages[2].first_step, 3);
        assert_eq!(plan(text, Some("1")).unwrap().target, 1);
    }

    #[test]
    fn stages_that_make_no_sense_are_refused_with_their_line() {
        for (text, target) in [
            ("FROM\t$NOTHING\n", None),
            ("FROM a b c\n", None),
            ("FROM a AS 1x\n", None),
            ("FROM a AS x\nFROM b AS X\n", None),
            ("FROM a\n", Some("x")),
        ] {
            assert!(matches!(plan(text, target), Err(StepError::Refused { .. })), "{text}");
        }
    }
}
