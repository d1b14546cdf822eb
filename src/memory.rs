//! Memory that a process needed once and does not need any more, given back.
//!
//! The kernel maps sixteen pages of a program's file where one is touched, so that a large program which does a little here
//! and a little there seems to use most of itself. What is given back stays in the page cache, and what is needed comes back
//! by itself.
#![allow(unsafe_code)] // madvise(2) and malloc_trim(3) are the whole matter

use std::fs::File;
use std::io::{self, BufRead as _};
use std::os::unix::fs::FileExt as _;

/// Gives memory back that the start of a process needed and its further life does not. For a process with one thread.
///
/// Free heap goes back to the kernel. So does the part of the stack that deeper calls have used, and what
/// [`give_back_program`] gives back.
pub fn shrink() {
    // SAFETY: malloc_trim takes any number and only frees what malloc holds as free.
    unsafe { libc::malloc_trim(0) };
    if let Some(stack) = give_back_program() {
        let here = 0_u8;
        let unused_end = ((&raw const here).addr() & !0xfff).saturating_sub(STACK_MARGIN_BYTES);
        if stack < unused_end {
            // SAFETY: the stack grows down, so nothing lives below this frame but the frame of madvise itself, for which
            // the margin is more than enough.
            unsafe { libc::madvise(stack as *mut libc::c_void, unused_end - stack, libc::MADV_DONTNEED) };
        }
    }
    // SAFETY: as above; the tables of mappings are free again.
    unsafe { libc::malloc_trim(0) };
}

/// Gives back the pages of the program and its libraries that are as they are in their files. Returns where the mapping
/// begins that holds the caller's stack.
pub fn give_back_program() -> Option<usize> {
    let smaps = File::open("/proc/self/smaps").ok()?;
    let own_frame = (&raw const smaps).addr();
    let mut of_file: Option<(usize, usize)> = None;
    let (mut clean, mut mixed) = (Vec::with_capacity(32), Vec::with_capacity(8));
    let mut stack = None;
    let mut line = String::with_capacity(160);
    let mut smaps = io::BufReader::with_capacity(4096, smaps);
    while matches!(smaps.read_line(&mut line), Ok(length) if length > 0) {
        if let Some((start, end, kind)) = parse_mapping(&line) {
            of_file = (kind == Mapping::File).then_some((start, end));
            if kind == Mapping::Other && (start..end).contains(&own_frame) {
                stack = Some(start);
            }
        } else if let Some(anonymous) = line.strip_prefix("Anonymous:")
            && let Some(mapping) = of_file.take()
        {
            if anonymous.trim() == "0 kB" { clean.push(mapping) } else { mixed.push(mapping) }
        }
        line.clear();
    }
    drop(smaps);
    // What the loader has relocated is this process's own; around it lie pages that it only looked at.
    if let Ok(pagemap) = File::open("/proc/self/pagemap") {
        for (start, end) in mixed {
            find_clean_pages(&pagemap, start, end, &mut clean);
        }
    }
    for (start, end) in clean {
        // SAFETY: the range is private, read-only and of a file, and has no page of its own, as the kernel has just said.
        // It is of the program or a library, which no thread unmaps or writes to. So what is dropped is read from the file
        // again when it is touched.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
    }
    stack
}

/// Finds the ranges between two addresses whose pages are there and are the file's.
///
/// Source: the kernel's admin-guide/mm/pagemap.
fn find_clean_pages(pagemap: &std::fs::File, start: usize, end: usize, clean: &mut Vec<(usize, usize)>) {
    const PRESENT: u64 = 1 << 63;
    const OF_FILE: u64 = 1 << 61;
    let page_bytes = rustix::param::page_size();
    let mut entries = [0; 512];
    let mut address = start;
    while address < end {
        let wanted = ((end - address) / page_bytes * 8).min(entries.len());
        let offset = (address / page_bytes * 8) as u64;
        let Ok(length @ 8..) = pagemap.read_at(&mut entries[..wanted], offset) else { return };
        for entry in entries[..length].as_chunks().0 {
            let flags = u64::from_ne_bytes(*entry);
            let next = address + page_bytes;
            if flags & PRESENT != 0 && flags & OF_FILE != 0 {
                match clean.last_mut() {
                    Some((_, end)) if *end == address => *end = next,
                    _ => clean.push((address, next)),
                }
            }
            address = next;
        }
    }
}

/// What is left alone below the current frame when unused stack is given back.
const STACK_MARGIN_BYTES: usize = 8 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mapping {
    /// Private and read-only, of a file.
    File,
    /// Anything else.
    Other,
}

/// Parses the first line of a mapping in smaps into start, end and kind; `None` if the line is none.
///
/// Source: proc_pid_smaps(5).
fn parse_mapping(line: &str) -> Option<(usize, usize, Mapping)> {
    let mut fields = line.split_ascii_whitespace();
    let (start, end) = fields.next()?.split_once('-')?;
    let start = usize::from_str_radix(start, 16).ok()?;
    let end = usize::from_str_radix(end, 16).ok().filter(|end| *end > start)?;
    let read_only = matches!(fields.next()?, "r--p" | "r-xp");
    let of_file = fields.nth(3).is_some_and(|path| path.starts_with('/'));
    Some((start, end, if read_only && of_file { Mapping::File } else { Mapping::Other }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_read_only_mappings_of_files_are_given_back() {
        for (line, expected) in [
            ("1000-3000 r-xp 0000 08:01 5    /usr/bin/dormouse", Some(Mapping::File)),
            ("1000-3000 r--p 0000 08:01 5    /usr/bin/dormouse", Some(Mapping::File)),
            ("1000-3000 rw-p 0000 08:01 5    /usr/bin/dormouse", Some(Mapping::Other)),
            ("1000-3000 r--p 0000 00:00 0    [vvar]", Some(Mapping::Other)),
            ("1000-3000 r--p 0000 00:00 0", Some(Mapping::Other)),
            ("Anonymous:             4 kB", None),
            ("VmFlags: rd mr mw me", None),
        ] {
            assert_eq!(parse_mapping(line), expected.map(|kind| (0x1000, 0x3000, kind)), "{line}");
        }
    }

    #[test]
    fn a_process_works_after_it_was_made_small() {
        let kept: Vec<u64> = (0..100_000).collect();
        shrink();
        assert_eq!(kept.iter().sum::<u64>(), 4_999_950_000);
    }
}
