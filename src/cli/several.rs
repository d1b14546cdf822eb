//! Streams of several containers at once, each over a connection of its own.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use serde_json::Value;

use crate::cli::errors::CliError;

/// How many replies of each wait to be shown. A reader that is slow holds up its source.
const WAITING_MAX: usize = 4;

/// In which order entries are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// By their `timeUSec`; that of each alone is kept.
    ByTime,
    /// As they come.
    AsItComes,
}

enum News {
    Entries(usize, Vec<Value>),
    Ended(Result<(), CliError>),
}

/// Opens all by `open`, which hands entries over as they come, and shows them by `show`. A failure of one is given to `failed`
/// and keeps no other from being shown.
///
/// # Errors
/// What `show` says, which ends all of it.
pub fn stream(
    names: &[String],
    order: Order,
    open: impl Fn(&str, &mut dyn FnMut(Vec<Value>) -> Result<(), CliError>) -> Result<(), CliError> + Sync,
    mut show: impl FnMut(usize, Vec<Value>) -> Result<(), CliError>,
    mut failed: impl FnMut(CliError),
) -> Result<(), CliError> {
    std::thread::scope(|scope| {
        let mut sources = Vec::new();
        let (shared, all) = sync_channel(WAITING_MAX);
        for (number, name) in names.iter().enumerate() {
            let sender = match order {
                Order::AsItComes => shared.clone(),
                Order::ByTime => {
                    let (sender, own) = sync_channel(WAITING_MAX);
                    sources.push(Source { news: own, entries: VecDeque::new(), ended: false });
                    sender
                }
            };
            let open = &open;
            scope.spawn(move || carry(number, &sender, |each| open(name, each)));
        }
        drop(shared);
        match order {
            Order::AsItComes => {
                for news in all {
                    match news {
                        News::Entries(number, entries) => show(number, entries)?,
                        News::Ended(Ok(())) => {}
                        News::Ended(Err(error)) => failed(error),
                    }
                }
                Ok(())
            }
            Order::ByTime => merge(&mut sources, &mut show, &mut failed),
        }
    })
}

fn carry(
    number: usize,
    to: &SyncSender<News>,
    open: impl FnOnce(&mut dyn FnMut(Vec<Value>) -> Result<(), CliError>) -> Result<(), CliError>,
) {
    // Nobody takes what comes when showing has failed, and then that was told.
    let result = open(&mut |entries| to.send(News::Entries(number, entries)).map_err(|_| CliError::told()));
    let _ = to.send(News::Ended(result));
}

/// One of several, of which the next entry is looked at.
struct Source {
    news: Receiver<News>,
    entries: VecDeque<Value>,
    ended: bool,
}

impl Source {
    fn fill(&mut self, failed: &mut impl FnMut(CliError)) {
        while self.entries.is_empty() && !self.ended {
            match self.news.recv() {
                Ok(News::Entries(_, entries)) => self.entries.extend(entries),
                Ok(News::Ended(result)) => {
                    self.ended = true;
                    if let Err(error) = result {
                        failed(error);
                    }
                }
                Err(_) => self.ended = true,
            }
        }
    }

    fn time(&self) -> Option<i64> {
        self.entries.front().map(|entry| entry["timeUSec"].as_i64().unwrap_or(0))
    }
}

fn merge(
    sources: &mut [Source],
    show: &mut impl FnMut(usize, Vec<Value>) -> Result<(), CliError>,
    failed: &mut impl FnMut(CliError),
) -> Result<(), CliError> {
    loop {
        for source in &mut *sources {
            source.fill(failed);
        }
        let first = sources
            .iter()
            .enumerate()
            .filter_map(|(number, source)| Some((source.time()?, number)))
            .min()
            .map(|(_, number)| number);
        let Some(number) = first else { return Ok(()) };
        if let Some(entry) = sources[number].entries.pop_front() {
            show(number, vec![entry])?;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shown(order: Order, sources: &[(&str, &[i64])]) -> (Vec<(usize, i64)>, usize) {
        let names: Vec<String> = sources.iter().map(|(name, _)| (*name).to_owned()).collect();
        let (mut seen, mut failures) = (Vec::new(), 0);
        stream(
            &names,
            order,
            |name, each| {
                let (_, times) = sources.iter().find(|(known, _)| *known == name).unwrap();
                for some in times.chunks(2) {
                    each(some.iter().map(|time| json!({"timeUSec": time})).collect())?;
                }
                if *name == *"bad" { Err(CliError::new("broken")) } else { Ok(()) }
            },
            |number, entries| {
                seen.extend(entries.iter().map(|entry| (number, entry["timeUSec"].as_i64().unwrap())));
                Ok(())
            },
            |_| failures += 1,
        )
        .unwrap();
        (seen, failures)
    }

    #[test]
    fn entries_of_several_are_in_the_order_of_their_times() {
        let (seen, failures) =
            shown(Order::ByTime, &[("a", &[1, 4, 5, 9]), ("bad", &[2]), ("c", &[3, 4, 10])]);
        let expected = [(0, 1), (1, 2), (2, 3), (0, 4), (2, 4), (0, 5), (0, 9), (2, 10)];
        assert_eq!((seen.as_slice(), failures), (&expected[..], 1));
    }

    #[test]
    fn those_that_come_as_they_come_are_all_there() {
        let (mut seen, failures) = shown(Order::AsItComes, &[("a", &[1, 4]), ("b", &[2, 3])]);
        seen.sort_unstable();
        assert_eq!((seen.as_slice(), failures), (&[(0, 1), (0, 4), (1, 2), (1, 3)][..], 0));
    }

    #[test]
    fn a_failure_to_show_ends_all_of_it() {
        let names = ["a".to_owned(), "b".to_owned()];
        let many = |_: &str, each: &mut dyn FnMut(Vec<Value>) -> Result<(), CliError>| {
            (0..1000).try_for_each(|time| each(vec![json!({"timeUSec": time})]))
        };
        for order in [Order::ByTime, Order::AsItComes] {
            let result = stream(&names, order, many, |_, _| Err(CliError::new("full")), |_| {});
            assert_eq!(result.unwrap_err().message, "full");
        }
    }
}
