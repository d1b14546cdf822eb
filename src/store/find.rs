//! What people mean by a name: an object's name, its id, or the beginning of its id.

use rusqlite::Row;

use super::{Store, StoreError};

/// So many digits of an id are told and taken where a shorter beginning of one may be meant as a name.
pub const SHORT_ID_DIGITS: usize = 12;

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found<T> {
    /// The object of this name or id, or the only one whose id begins with it.
    One(T),
    /// The ids of several begin with it.
    Several,
    /// Nothing.
    None,
}

impl<T> Found<T> {
    pub(super) fn of(mut rows: Vec<T>) -> Self {
        match (rows.pop(), rows.is_empty()) {
            (Some(row), true) => Self::One(row),
            (Some(_), false) => Self::Several,
            (None, _) => Self::None,
        }
    }

    /// The only one.
    ///
    /// # Errors
    /// What is told where there are several, or where there is none.
    pub fn one<E>(self, several: impl FnOnce() -> E, none: impl FnOnce() -> E) -> Result<T, E> {
        match self {
            Self::One(row) => Ok(row),
            Self::Several => Err(several()),
            Self::None => Err(none()),
        }
    }

    /// The only one, if there is just one.
    pub fn ok(self) -> Option<T> {
        match self {
            Self::One(row) => Some(row),
            Self::Several | Self::None => None,
        }
    }
}

/// Objects that have a name and an id.
pub(super) struct Named<T> {
    /// As in "look up the pod".
    pub attempted: &'static str,
    /// What [`Self::read`] reads.
    pub columns: &'static str,
    pub table: &'static str,
    /// With fewer digits an id is no name: `db` must not be the first object whose id happens to begin with it.
    pub prefix_min: usize,
    pub read: fn(&Row<'_>) -> rusqlite::Result<T>,
}

impl Store {
    /// A name or a whole id goes before beginnings of ids.
    pub(super) fn find<T>(&self, named: &Named<T>, name: &str) -> Result<Found<T>, StoreError> {
        let connection = self.connection();
        let rows = |condition: &str| {
            connection
                .prepare_cached(&format!("SELECT {} FROM {} WHERE {condition}", named.columns, named.table))
                .and_then(|mut statement| {
                    statement.query_map([name], named.read)?.collect::<rusqlite::Result<Vec<T>>>()
                })
                .map_err(self.wrap(named.attempted))
        };
        let mut found = rows("name = ?1 OR id = ?1 LIMIT 1")?;
        let is_prefix = name.len() >= named.prefix_min && name.bytes().all(|byte| byte.is_ascii_hexdigit());
        if found.is_empty() && is_prefix {
            // An id is hexadecimal, so 'g' comes after all of those with this prefix.
            found = rows("id >= ?1 AND id < ?1 || 'g' LIMIT 2")?;
        }
        Ok(Found::of(found))
    }
}
