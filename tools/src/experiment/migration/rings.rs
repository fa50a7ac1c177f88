//! A guest's record ring as it lies in the memory of the process that runs it: the same for every monitor, and the guest
//! takes no part in it.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rt_abi::record::{MAGIC, Record};

use super::case::MEMORY;
use super::silence::Life;

/// Bytes of a record, and of a ring's header (rt_abi::record).
const RECORD: u64 = 64;
/// Where in the header the count of records is.
const HEAD: u64 = 24;
/// A ring is this near to the beginning or the end of the guest's memory: in the image, or behind everything.
const NEAR: u64 = 16 << 20;
/// Bytes looked through at once.
const CHUNK: u64 = 1 << 20;
/// No ring has more records.
const MOST: u64 = 1 << 20;

/// The ring of a guest with one vCPU.
#[derive(Debug)]
pub struct Ring {
    memory: File,
    /// Its address in the process.
    at: u64,
    /// The same from the beginning of its mapping.
    offset: u64,
    capacity: u64,
}

impl Ring {
    /// Finds it in a process; first where it was `before`, from the beginning of its mapping. Nothing while there is none.
    pub fn find(pid: i32, before: Option<u64>) -> io::Result<Option<Self>> {
        let memory = File::open(format!("/proc/{pid}/mem"))?;
        let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
        for mapping in maps.lines().filter_map(guest_memory) {
            let ranges = before.iter().map(|at| {
                let at = mapping.start + at;
                at..(at + RECORD).min(mapping.end)
            });
            for range in ranges.chain(near_ends(&mapping)) {
                let Some((at, capacity)) = search(&memory, range)? else {
                    continue;
                };
                return Ok(Some(Self {
                    memory,
                    at,
                    offset: at - mapping.start,
                    capacity,
                }));
            }
        }
        Ok(None)
    }

    /// Where it is from the beginning of its mapping.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Records that were ever written.
    pub fn head(&self) -> io::Result<u64> {
        word(&self.memory, self.at + HEAD)
    }

    /// Adds to `life` what was recorded from number `from` on; the number of the next one.
    pub fn follow(&self, from: u64, life: &mut Life) -> io::Result<u64> {
        // Before it has arrived as a whole it may be one of earlier.
        let head = self.head()?.max(from);
        let first = from.max(head.saturating_sub(self.capacity));
        let mut records = Vec::new();
        for number in first..head {
            let mut bytes = [0; 64];
            let at = self.at + RECORD * (1 + number % self.capacity);
            self.memory.read_exact_at(&mut bytes, at)?;
            records.push((number, Record::from_bytes(&bytes)));
        }
        // What the guest has begun to write over meanwhile is not what it was.
        let oldest = (self.head()? + 1).saturating_sub(self.capacity);
        records.retain(|(number, _)| *number >= oldest);
        let kept = records.first().map_or(head, |(number, _)| *number);
        let lost = kept.saturating_sub(from);
        life.extend(
            records.into_iter().map(|(_, record)| record).collect(),
            lost,
        );
        Ok(head)
    }
}

/// The addresses of a mapping of /proc/PID/maps that is large enough for a guest's memory.
fn guest_memory(line: &str) -> Option<Range<u64>> {
    let mut words = line.split_ascii_whitespace();
    let (range, rights) = (words.next()?, words.next()?);
    let (start, end) = range.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    let range = address(start)?..address(end)?;
    let is_large = range.end.checked_sub(range.start)? >= MEMORY << 20;
    (is_large && rights.starts_with("rw")).then_some(range)
}

fn near_ends(mapping: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let first = mapping.start..(mapping.start + NEAR).min(mapping.end);
    let last = mapping.end.saturating_sub(NEAR).max(mapping.start)..mapping.end;
    [first, last].into_iter().flat_map(|range| {
        let end = range.end;
        let step = usize::try_from(CHUNK).unwrap_or(1);
        range.step_by(step).map(move |at| at..(at + CHUNK).min(end))
    })
}

/// Address and capacity of a ring whose header begins in `range`.
fn search(memory: &File, range: Range<u64>) -> io::Result<Option<(u64, u64)>> {
    let length = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(0);
    let mut bytes = vec![0; length];
    if memory.read_exact_at(&mut bytes, range.start).is_err() {
        // A mapping that cannot be read is not a guest's.
        return Ok(None);
    }
    let found = bytes.as_chunks::<8>().0.iter().enumerate();
    let magic = MAGIC.to_le_bytes();
    for (index, _) in found.filter(|(_, word)| **word == magic) {
        let at = range.start + 8 * index as u64;
        let (capacity, rings) = (word(memory, at + 8)?, word(memory, at + 16)?);
        // The image has the magic word in its code too.
        if rings == 1 && capacity.is_power_of_two() && capacity <= MOST {
            return Ok(Some((at, capacity)));
        }
    }
    Ok(None)
}

fn word(memory: &File, at: u64) -> io::Result<u64> {
    let mut bytes = [0; 8];
    memory.read_exact_at(&mut bytes, at)?;
    Ok(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rt_abi::record::Kind;

    #[test]
    fn a_guests_memory_is_a_large_mapping_that_can_be_written() {
        let line = "7faeebfff000-7faefbfff000 rw-s 00000000 00:01 8427 /memfd:x (deleted)";
        assert_eq!(guest_memory(line), Some(0x7fae_ebff_f000..0x7fae_fbff_f000));
        for other in [
            "7faeebfff000-7faeecfff000 rw-p 00000000 00:00 0",
            "7faeebfff000-7faefbfff000 r--p 00000000 00:00 0",
            "nonsense",
            "",
        ] {
            assert_eq!(guest_memory(other), None, "{other}");
        }
    }

    /// A ring in this process's own memory.
    fn ring(head: u64, capacity: u64) -> Vec<u64> {
        let mut words = vec![MAGIC, capacity, 1, head, 0, 0, 0, 0];
        for slot in 0..capacity {
            let number = (0..head).rev().find(|n| n % capacity == slot).unwrap_or(0);
            let record = Record {
                kind: Kind::Job as u16,
                finish: number,
                ..Record::default()
            };
            let bytes = record.to_bytes();
            words.extend(
                bytes
                    .as_chunks::<8>()
                    .0
                    .iter()
                    .map(|b| u64::from_le_bytes(*b)),
            );
        }
        words
    }

    fn own(words: &[u64]) -> Ring {
        let memory = File::open("/proc/self/mem").unwrap();
        let at = words.as_ptr().addr() as u64;
        let range = at..at + 8 * words.len() as u64;
        let (found, capacity) = search(&memory, range).unwrap().unwrap();
        assert_eq!((found, capacity), (at, words[1]));
        Ring {
            memory,
            at,
            offset: 0,
            capacity,
        }
    }

    #[test]
    fn what_was_recorded_since_the_last_look_is_read_once() {
        let words = ring(10, 16);
        let ring = own(&words);
        let mut life = Life::default();
        assert_eq!(ring.follow(4, &mut life).unwrap(), 10);
        assert_eq!((life.latest(), life.lost), (9, 0));
        assert_eq!(ring.follow(10, &mut life).unwrap(), 10);
        assert_eq!(life.lost, 0);
    }

    #[test]
    fn a_ring_of_earlier_brings_nothing_and_is_not_gone_back_to() {
        let words = ring(10, 16);
        let mut life = Life::default();
        assert_eq!(own(&words).follow(12, &mut life).unwrap(), 12);
        assert_eq!((life.latest(), life.lost), (0, 0));
    }

    #[test]
    fn what_was_written_over_is_counted_as_lost() {
        let words = ring(100, 16);
        let mut life = Life::default();
        own(&words).follow(4, &mut life).unwrap();
        // The one that could be written over at any moment is not trusted either.
        assert_eq!((life.latest(), life.lost), (99, 100 - 4 - 15));
    }
}
