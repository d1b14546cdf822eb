//! Which of all a list is to hold.

/// Keeps what the names stand for: each is the name or the id of one, and only if it is neither the beginning of ids. `db` must not
/// bring along whatever has an id that happens to begin with it. No names keep all.
pub fn keep_named<T>(all: &mut Vec<T>, names: &[String], id_and_name: impl Fn(&T) -> (&str, &str)) {
    if names.is_empty() {
        return;
    }
    let is_one = |wanted: &&String| {
        all.iter().any(|one| {
            let (id, name) = id_and_name(one);
            name == *wanted || id == *wanted
        })
    };
    let (exact, prefixes): (Vec<&String>, Vec<&String>) = names.iter().partition(is_one);
    all.retain(|one| {
        let (id, name) = id_and_name(one);
        exact.iter().any(|wanted| name == *wanted || id == *wanted)
            || prefixes.iter().any(|prefix| !prefix.is_empty() && id.starts_with(prefix.as_str()))
    });
}

/// Whether a label has the value that is wanted, where an empty one is any.
pub fn is_label(have: Option<&String>, wanted: &str) -> bool {
    have.is_some_and(|have| wanted.is_empty() || have == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_goes_before_beginnings_of_ids() {
        let kept = |names: &[&str]| {
            let mut all = vec![("db01", "web"), ("db02", "proxy"), ("ff03", "db")];
            let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
            keep_named(&mut all, &names, |&(id, name)| (id, name));
            all.into_iter().map(|(_, name)| name).collect::<Vec<_>>()
        };
        assert_eq!(kept(&[]), ["web", "proxy", "db"]);
        assert_eq!(kept(&["db"]), ["db"]);
        assert_eq!(kept(&["db0"]), ["web", "proxy"]);
        assert_eq!(kept(&["db02", "web"]), ["web", "proxy"]);
        assert_eq!(kept(&["db", "ff"]), ["db"]);
        assert_eq!(kept(&["", "nothing"]), [""; 0]);
    }
}
