//! What a host says of sessions without a process.

use super::fixture::{DESTINATION, SESSION, SOURCE};
use crate::drive::desk::Desk;
use crate::drive::journal::{self, JournalFile};
use crate::protocol::Record;
use crate::wire::{Inquire, Side, Standing};

struct Place {
    folder: tempfile::TempDir,
    desk: Desk,
}

fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let desk = Desk {
        folder: folder.path().to_owned(),
        boot: DESTINATION,
    };
    Place { folder, desk }
}

impl Place {
    fn claim(&self, side: Side) -> JournalFile {
        JournalFile::claim(&journal::path(self.folder.path(), SESSION, side)).unwrap()
    }

    fn leave_record(&self, side: Side) {
        let record = Record {
            session: SESSION,
            side,
            name: "guest".into(),
            peer: "127.0.0.1:9".into(),
            peer_boot: SOURCE,
        };
        self.claim(side).write(&record).unwrap();
    }

    /// What is said to the other side of `side`'s record.
    fn asked(&self, side: Side, standing: Standing) -> Option<Standing> {
        let question = Inquire {
            session: SESSION,
            from: side.other(),
            standing,
            boot: SOURCE,
        };
        let answer = self.desk.answer(&question).unwrap();
        answer.map(|answer| {
            assert_eq!(answer.boot, DESTINATION, "it is this host's life");
            answer.standing
        })
    }

    fn files(&self) -> usize {
        std::fs::read_dir(self.folder.path()).unwrap().count()
    }
}

#[test]
fn of_a_session_that_left_nothing_there_is_nothing() {
    let place = place();
    for side in [Side::Source, Side::Destination] {
        assert_eq!(
            place.asked(side, Standing::Prepared),
            Some(Standing::Nothing)
        );
    }
    assert_eq!(place.files(), 0, "asking leaves nothing behind");
    drop(place.claim(Side::Source));
    assert_eq!(
        place.asked(Side::Source, Standing::Prepared),
        Some(Standing::Nothing)
    );
    assert_eq!(place.files(), 0, "an empty file without an owner goes");
}

#[test]
fn a_dead_sources_record_tells_the_destination_to_run_until_it_does() {
    let place = place();
    place.leave_record(Side::Source);
    let asked = |standing| place.asked(Side::Source, standing);
    assert_eq!(asked(Standing::Prepared), Some(Standing::Orphaned));
    assert_eq!(asked(Standing::Declined), Some(Standing::Orphaned));
    assert_eq!(place.files(), 1);
    assert_eq!(asked(Standing::Running), Some(Standing::Nothing));
    assert_eq!(place.files(), 0, "nobody needs it any more");
}

#[test]
fn a_dead_destinations_record_says_that_the_guest_ran_until_the_source_has_let_go() {
    let place = place();
    place.leave_record(Side::Destination);
    let asked = |standing| place.asked(Side::Destination, standing);
    assert_eq!(asked(Standing::Committed), Some(Standing::Running));
    assert_eq!(asked(Standing::Nothing), Some(Standing::Nothing));
    assert_eq!(place.files(), 0);
}

#[test]
fn for_an_owner_that_lives_nothing_is_said() {
    let place = place();
    place.leave_record(Side::Source);
    let owner = place.claim(Side::Source);
    assert_eq!(place.asked(Side::Source, Standing::Prepared), None);
    assert_eq!(place.asked(Side::Source, Standing::Running), None);
    drop(owner);
    assert_eq!(
        place.asked(Side::Source, Standing::Prepared),
        Some(Standing::Orphaned)
    );
}
