use super::*;
use vm_memory::GuestAddress;

/// Two ranges with a hole, as of a guest with more than 3 GiB, but small.
fn with_a_hole() -> Ram {
    let ranges = [
        (GuestAddress(0), 128 * PAGE_SIZE),
        (GuestAddress(1 << 32), 70 * PAGE_SIZE),
    ];
    Ram::from_ranges(&ranges).unwrap()
}

#[test]
fn pages_are_counted_without_holes_and_read_and_written_across_them() {
    let ram = with_a_hole();
    let guest = GuestPages::new(ram.clone());
    assert_eq!(guest.pages(), 198);
    let bytes: Vec<u8> = (1..=4).flat_map(|page| [page; PAGE_SIZE]).collect();
    guest.write(PageNumber(126), &bytes).unwrap();
    let at = |address: u64| ram.read_obj::<u8>(GuestAddress(address)).unwrap();
    assert_eq!([at(126 * PAGE), at(127 * PAGE + 4095)], [1, 2]);
    assert_eq!([at(1 << 32), at((1 << 32) + 2 * PAGE - 1)], [3, 4]);
    assert_eq!([at(125 * PAGE + 4095), at((1 << 32) + 2 * PAGE)], [0, 0]);
    let mut back = vec![9; 4 * PAGE_SIZE];
    guest.read(PageNumber(126), &mut back).unwrap();
    assert!(back == bytes);
}

#[test]
fn what_is_not_whole_pages_of_the_guest_is_refused_and_changes_nothing() {
    let guest = GuestPages::new(with_a_hole());
    let outside = guest.write(PageNumber(197), &[1; 2 * PAGE_SIZE]);
    assert!(matches!(
        outside,
        Err(RamError::Outside {
            count: 2,
            pages: 198,
            ..
        })
    ));
    let torn = guest.write(PageNumber(0), &[1; PAGE_SIZE + 1]);
    assert!(matches!(torn, Err(RamError::NotWholePages { bytes: 4097 })));
    let beyond = guest.read(PageNumber(u64::MAX), &mut [0; PAGE_SIZE]);
    assert!(matches!(beyond, Err(RamError::Outside { .. })));
    let mut last = vec![9; PAGE_SIZE];
    guest.read(PageNumber(197), &mut last).unwrap();
    assert!(last.iter().all(|&byte| byte == 0));
}

#[test]
fn every_range_of_memory_but_the_last_is_whole_words_of_a_bitmap() {
    for size in [2 << 20, (3 << 30) + (1 << 20), 5 << 30] {
        let ranges = crate::memory::ranges(size);
        let (_, rest) = ranges.split_last().unwrap();
        assert!(rest.iter().all(|(_, length)| length % (64 * PAGE) == 0));
    }
}
