//! That a schedule is overdue is told once, and that it is well again, under a clock that the
//! tests set. (`stories/schedules.rs` has the notification unit.)

use std::io::Write;
use std::sync::Mutex;

use super::schedules::{Timed, at};
use super::*;

/// What is logged while it is the log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        locked(&self.0).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn overdue_is_told_once_and_being_well_again_too() {
    let t = Timed::new("2024-01-01T00:00:00Z");
    t.set("daily", &[("cron", "0 2 * * *".into()), ("timezone", "UTC".into())]);
    let away = t.house.path("away");
    std::fs::rename(t.house.data(), &away).unwrap();
    t.come(at("2024-01-01T02:00:00Z"));
    let mut events = t.service.subscribe();
    let mut changes = || {
        let mut count = 0;
        while let Ok(event) = events.try_recv() {
            count += usize::from(event == Event::ObjectChanged { kind: ObjectKind::Schedule, id: 1 });
        }
        count
    };
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).without_time().finish();
    tracing::subscriber::with_default(subscriber, || {
        let said = |word: &str| String::from_utf8_lossy(&locked(&log.0)).matches(word).count();
        // The ticks alone: the runs that are due meanwhile say things of their own.
        let look = |time: &str| {
            t.clock.set(at(time));
            t.service.tick_overdue(at(time)).unwrap();
        };
        look("2024-01-02T01:59:59Z");
        assert_eq!((said("overdue"), changes()), (0, 0), "there is a day's time to mend it");
        for minute in 0..30 {
            look(&format!("2024-01-02T02:{minute:02}:00Z"));
        }
        assert_eq!((said("is overdue: no good backup in time of data"), changes()), (1, 1));
        look("2024-01-04T12:00:00Z");
        assert_eq!((said("overdue"), changes()), (1, 0), "another day late is the same lateness");

        // It is in the catalog that somebody was told.
        let row = t.service.catalog.read(|r| r.need::<crate::catalog::Schedule>(1)).unwrap();
        assert!(row.overdue);

        std::fs::rename(&away, t.house.data()).unwrap();
        t.service.run_schedule("daily", Map::new()).unwrap();
        t.service.jobs.settle();
        changes();
        look("2024-01-04T13:00:00Z");
        look("2024-01-04T13:10:00Z");
        assert_eq!((said("is no longer overdue"), changes()), (1, 1));
        // The next time is another one.
        std::fs::rename(t.house.data(), &away).unwrap();
        look("2024-01-06T03:00:00Z");
        assert_eq!((said("is overdue:"), changes()), (2, 1));
    });
    close(t.service);
}
