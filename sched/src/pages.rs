//! The form of the ledger's file: one JSON document with one entry, or one share that becomes free, per line, so that what
//! has not changed since it was last read or written is neither parsed nor formatted again. A change costs as much with
//! two hundred VMs as with one.
//!
//! ```text
//! {"version":3,"generation":17,"fit":"worst","entries":[
//! {"vm":"a",...},
//! {"vm":"b",...}
//! ],"freeing":[
//! {"of":["a",0],...}
//! ],"end":17}
//! ```
//!
//! Every write is a single one of the whole file from its beginning, filled up with blanks so that nothing is left of a
//! longer one. One that was broken off leaves two different generations.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::admission::Fit;
use crate::book::{Book, Entry};
use crate::zero_lag::{Freeing, Share};

/// The version of the form.
const VERSION: u32 = 3;

#[derive(Serialize, Deserialize)]
struct Head {
    version: u32,
    generation: u64,
    fit: Fit,
    entries: [(); 0],
}

/// The end of a head, where the entries go.
const OPEN: &str = "]}";

/// What is between the entries and the shares.
const BETWEEN: &[u8] = b"],\"freeing\":[";

/// An item and its line.
#[derive(Debug)]
struct Line<T> {
    text: Vec<u8>,
    item: Arc<T>,
}

/// The lines of one list.
#[derive(Debug)]
struct Lines<T>(Vec<Line<T>>);

impl<T> Default for Lines<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// What was last read or written.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    generation: u64,
    fit: Fit,
    entries: Lines<Entry>,
    freeing: Lines<Share>,
    /// Whether the file is whole.
    is_whole: bool,
    /// The file's length: it is never cut.
    length: usize,
}

impl Pages {
    /// Takes in the bytes of the file; `None` if they are torn or of another form.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Option<Book> {
        self.length = bytes.len();
        self.is_whole = false;
        let mut lines = lines(bytes);
        let mut head = lines.next()?.to_vec();
        head.extend_from_slice(OPEN.as_bytes());
        let head: Head = serde_json::from_slice(&head).ok()?;
        self.entries.read(&mut lines, BETWEEN)?;
        self.freeing.read(&mut lines, &end(head.generation))?;
        if head.version != VERSION {
            return None;
        }
        (self.generation, self.fit) = (head.generation, head.fit);
        self.is_whole = true;
        Some(Book {
            fit: head.fit,
            entries: self.entries.items(),
            freeing: Freeing(self.freeing.items()),
        })
    }

    /// The bytes to write for `book`; `None` if it is what is there.
    pub(crate) fn write(&mut self, book: &Book) -> Option<Vec<u8>> {
        let is_unchanged = self.is_whole
            && self.fit == book.fit
            && self.entries.are(&book.entries)
            && self.freeing.are(&book.freeing.0);
        if is_unchanged {
            return None;
        }
        self.generation = self.generation.wrapping_add(1);
        self.is_whole = true;
        self.fit = book.fit;
        let mut bytes = self.head();
        self.entries.write(&book.entries, &mut bytes);
        bytes.extend_from_slice(BETWEEN);
        self.freeing.write(&book.freeing.0, &mut bytes);
        bytes.extend_from_slice(&end(self.generation));
        bytes.push(b'\n');
        self.length = bytes.len().max(self.length);
        bytes.resize(self.length, b' ');
        Some(bytes)
    }

    fn head(&self) -> Vec<u8> {
        let head = Head {
            version: VERSION,
            generation: self.generation,
            fit: self.fit,
            entries: [],
        };
        let mut bytes = serde_json::to_vec(&head).unwrap_or_default();
        bytes.truncate(bytes.len().saturating_sub(OPEN.len()));
        bytes
    }
}

/// All lines that end. Most of the time that reading takes is looking for their ends.
fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let end = memchr::memchr(b'\n', rest)?;
        let (line, after) = rest.split_at(end);
        rest = &after[1..];
        Some(line)
    })
}

/// The last line.
fn end(generation: u64) -> Vec<u8> {
    format!("],\"end\":{generation}}}").into_bytes()
}

impl<T: Serialize + DeserializeOwned> Lines<T> {
    fn items(&self) -> Vec<Arc<T>> {
        self.0.iter().map(|line| Arc::clone(&line.item)).collect()
    }

    /// Whether these are the items.
    fn are(&self, items: &[Arc<T>]) -> bool {
        let mut both = self.0.iter().zip(items);
        self.0.len() == items.len() && both.all(|(line, item)| Arc::ptr_eq(&line.item, item))
    }

    /// Takes in the lines up to `end`, which closes the list.
    fn read<'a>(&mut self, lines: &mut impl Iterator<Item = &'a [u8]>, end: &[u8]) -> Option<()> {
        let mut known = std::mem::take(&mut self.0).into_iter();
        loop {
            let line = lines.next()?;
            if line.starts_with(b"]") {
                return (line == end).then_some(());
            }
            self.0.push(Line::read(line, &mut known)?);
        }
    }

    /// Appends the lines of `items`, and the line break before the list's end.
    fn write(&mut self, items: &[Arc<T>], bytes: &mut Vec<u8>) {
        let mut known = std::mem::take(&mut self.0).into_iter();
        let lines = items.iter().map(|item| Line::write(item, &mut known));
        self.0 = lines.collect();
        for (number, line) in self.0.iter().enumerate() {
            bytes.extend_from_slice(if number == 0 { b"\n" } else { b",\n" });
            bytes.extend_from_slice(&line.text);
        }
        bytes.push(b'\n');
    }
}

impl<T: Serialize + DeserializeOwned> Line<T> {
    /// The next of the known ones with this text, or a new one.
    fn read(line: &[u8], known: &mut std::vec::IntoIter<Self>) -> Option<Self> {
        let text = line.strip_suffix(b",").unwrap_or(line);
        if let Some(same) = known.as_slice().iter().position(|known| known.text == text) {
            return known.nth(same);
        }
        Some(Self {
            text: text.to_vec(),
            item: Arc::new(serde_json::from_slice(text).ok()?),
        })
    }

    /// The next of the known ones with this item, or a new one.
    fn write(item: &Arc<T>, known: &mut std::vec::IntoIter<Self>) -> Self {
        let is_same = |known: &Self| Arc::ptr_eq(&known.item, item);
        let same = known.as_slice().iter().position(is_same);
        same.and_then(|same| known.nth(same))
            .unwrap_or_else(|| Self {
                text: serde_json::to_vec(item.as_ref()).unwrap_or_default(),
                item: Arc::clone(item),
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Process;
    use proptest::prelude::*;

    fn entry(vm: &str) -> Arc<Entry> {
        Arc::new(Entry {
            vm: vm.to_owned(),
            process: Process { pid: 1, started: 7 },
            vcpus: Vec::new(),
        })
    }

    fn share(vm: &str) -> Arc<Share> {
        let second = serde_json::json!({"secs": 1, "nanos": 0});
        let share =
            serde_json::json!({"of": [vm, 0], "placement": "global", "share": 9, "until": second});
        Arc::new(serde_json::from_value(share).unwrap())
    }

    /// Every VM has an entry and a share.
    fn book(vms: &[&str]) -> Book {
        Book {
            entries: vms.iter().map(|vm| entry(vm)).collect(),
            freeing: Freeing(vms.iter().map(|vm| share(vm)).collect()),
            ..Book::default()
        }
    }

    fn read(bytes: &[u8]) -> Option<Book> {
        Pages::default().read(bytes)
    }

    #[test]
    fn a_shorter_book_overwrites_a_longer_one_completely() {
        let mut pages = Pages::default();
        let long = pages.write(&book(&["a", "b"])).unwrap();
        let short = pages.write(&book(&[])).unwrap();
        assert_eq!(short.len(), long.len());
        assert_eq!(read(&short), Some(book(&[])));
        assert!(pages.write(&book(&[])).is_none(), "it is there already");
    }

    #[test]
    fn the_file_is_one_json_document() {
        let bytes = Pages::default().write(&book(&["a", "b"])).unwrap();
        let document: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(document["entries"][1]["vm"], "b");
        assert_eq!(document["freeing"][1]["of"][0], "b");
        assert_eq!(document["generation"], document["end"]);
    }

    #[test]
    fn a_file_of_another_version_is_not_taken_for_a_book() {
        let bytes = Pages::default().write(&book(&["a"])).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let other = text.replace("\"version\":3", "\"version\":4");
        assert_ne!(other, text);
        assert_eq!(read(other.as_bytes()), None);
        assert_eq!(read(b"{\"version\":1,\"entries\":[]}"), None);
    }

    #[test]
    fn a_damaged_file_is_written_anew_even_if_nothing_is_promised() {
        let mut pages = Pages::default();
        assert!(pages.write(&book(&[])).is_some());
        assert_eq!(pages.read(b"damaged"), None);
        assert!(pages.write(&book(&[])).is_some());
    }

    #[test]
    fn a_share_that_is_free_is_a_change_although_all_entries_are_the_same() {
        let mut pages = Pages::default();
        let mut changed = book(&["a", "b"]);
        assert!(pages.write(&changed).is_some());
        changed.freeing.0.pop();
        let bytes = pages.write(&changed).unwrap();
        assert_eq!(read(&bytes), Some(changed));
    }

    #[test]
    fn what_did_not_change_is_not_parsed_again() {
        let mut writer = Pages::default();
        let mut written = book(&["a", "b", "c"]);
        let mut reader = Pages::default();
        let first = reader.read(&writer.write(&written).unwrap()).unwrap();
        written.entries.remove(0);
        written.entries[0] = entry("changed");
        written.freeing.0.swap_remove(0);
        written.freeing.0[0] = share("changed");
        let second = reader.read(&writer.write(&written).unwrap()).unwrap();
        assert_eq!(second, written);
        assert!(Arc::ptr_eq(&first.entries[2], &second.entries[1]));
        assert!(Arc::ptr_eq(&first.freeing.0[1], &second.freeing.0[1]));
    }

    proptest! {
        #[test]
        fn a_write_that_was_broken_off_is_not_taken_for_a_book(
            old in prop::collection::vec("[a-c]{1,6}", 0..6), new in prop::collection::vec("[a-c]{1,6}", 0..6), cut: prop::sample::Index,
        ) {
            let of = |vms: &[String]| book(&vms.iter().map(String::as_str).collect::<Vec<_>>());
            let mut pages = Pages::default();
            let Some(before) = pages.write(&of(&old)) else { return Ok(()) };
            let Some(after) = pages.write(&of(&new)) else { return Ok(()) };
            let cut = cut.index(after.len());
            let mut torn = after[..cut].to_vec();
            torn.extend_from_slice(before.get(cut..).unwrap_or_default());
            let found = read(&torn);
            let is_whole = torn == after || torn == before;
            prop_assert!(is_whole || found.is_none() || found == Some(of(&new)), "{}", String::from_utf8_lossy(&torn));
        }

        #[test]
        fn a_reader_that_knows_an_earlier_state_reads_the_same_as_one_that_knows_none(
            states in prop::collection::vec(prop::collection::vec("[a-e]", 0..6), 1..6), seen in prop::collection::vec(any::<bool>(), 6),
        ) {
            let (mut writer, mut reader) = (Pages::default(), Pages::default());
            for (vms, seen) in states.iter().zip(seen) {
                let state = book(&vms.iter().map(String::as_str).collect::<Vec<_>>());
                let Some(bytes) = writer.write(&state) else { continue };
                prop_assert_eq!(read(&bytes), Some(state.clone()));
                if seen {
                    prop_assert_eq!(reader.read(&bytes), Some(state));
                }
            }
        }
    }
}
