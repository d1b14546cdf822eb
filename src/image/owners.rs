//! Owners of files in a container with a user namespace: who they are inside, and outside.

/// The id of who is nobody inside. Source: /proc/sys/kernel/overflowuid.
const NOBODY: u32 = 65_534;

/// A translation of owners; the default one changes nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owners {
    mapped: Option<[Vec<Span>; 2]>,
}

/// First inside, first outside, and how many.
type Span = (u32, u32, u32);

impl Owners {
    /// From the texts of `/proc/PID/uid_map` and `gid_map`, user_namespaces(7).
    pub fn new(users: &str, groups: &str) -> Self {
        let parse = |text: &str| {
            let line = |line: &str| {
                let mut fields = line.split_ascii_whitespace().map(str::parse);
                Some((fields.next()?.ok()?, fields.next()?.ok()?, fields.next()?.ok()?))
            };
            text.lines().filter_map(line).collect()
        };
        Self { mapped: Some([parse(users), parse(groups)]) }
    }

    /// User and group as the container has them; who is unknown there is nobody.
    pub fn inside(&self, user: u32, group: u32) -> (u32, u32) {
        let Some([users, groups]) = &self.mapped else { return (user, group) };
        let find = |spans: &[Span], id: u32| {
            let of = |(inside, outside, count): &Span| {
                id.checked_sub(*outside).filter(|step| step < count)?.checked_add(*inside)
            };
            spans.iter().find_map(of).unwrap_or(NOBODY)
        };
        (find(users, user), find(groups, group))
    }

    /// A user of the container as seen from outside; `None` if there is none.
    pub fn user_outside(&self, user: u32) -> Option<u32> {
        self.outside(0, user)
    }

    /// A group of the container as seen from outside; `None` if there is none.
    pub fn group_outside(&self, group: u32) -> Option<u32> {
        self.outside(1, group)
    }

    fn outside(&self, which: usize, id: u32) -> Option<u32> {
        let Some(mapped) = &self.mapped else { return Some(id) };
        mapped[which].iter().find_map(|(inside, outside, count)| {
            id.checked_sub(*inside).filter(|step| step < count)?.checked_add(*outside)
        })
    }

    /// Whether it changes anything.
    pub fn is_mapped(&self) -> bool {
        self.mapped.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_translated_both_ways() {
        let owners = Owners::new("0 100000 1000\n1000 5 1\n", "0 200000 10\n");
        assert_eq!(owners.inside(100_033, 200_004), (33, 4));
        assert_eq!(owners.inside(5, 5), (1000, NOBODY));
        assert_eq!((owners.user_outside(1000), owners.user_outside(1001)), (Some(5), None));
        assert_eq!(owners.group_outside(9), Some(200_009));
        assert_eq!(Owners::default().inside(1, 2), (1, 2));
        assert_eq!(Owners::default().user_outside(7), Some(7));
    }
}
