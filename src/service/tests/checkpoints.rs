//! How long backups of checkpoints stay, under a clock that the tests set.

use super::schedules::{Timed, at};
use super::*;

impl Timed {
    fn checkpoint(&self, pairs: &[(&str, Value)]) -> u64 {
        let made = self.service.create_checkpoint("main", map(pairs)).unwrap();
        self.service.jobs.settle();
        self.service.tick();
        number(&made, "id")
    }
}

#[test]
fn backups_of_a_checkpoint_go_when_their_time_has_come() {
    let t = Timed::new("2024-02-01T00:00:00Z");
    t.house.add(&t.service, "other");
    let thirty = [("auto_trigger", true.into()), ("retention_duration", Value::Int(30))];
    assert_eq!(t.checkpoint(&thirty), 1);
    assert_eq!(t.ids(), [1, 2]);
    assert_eq!((t.expires(1), t.expires(2)), (None, None), "each is the newest of its resource");

    // A newer one of one of the resources: from now on its time is known, and is not a day longer
    // for the leap day.
    t.clock.set(at("2024-02-10T00:00:00Z"));
    back_up(&t.service, "data");
    let next = t.service.tick();
    assert_eq!(t.expires(1).as_deref(), Some("2024-03-02T00:00:00.000Z"));
    assert_eq!(next, Some(at("2024-03-02T00:00:00Z")), "and the clock is asked for that time");
    assert_eq!((t.expires(2), t.expires(3)), (None, None));

    // What is protected stays, for as long as it is.
    t.service.update_backup(1, map(&[("protected", true.into())])).unwrap();
    t.come(at("2024-03-02T00:00:00Z"));
    assert_eq!((t.ids(), t.expires(1)), (vec![1, 2, 3], None));
    t.clock.set(at("2024-03-01T23:59:59Z"));
    t.service.update_backup(1, map(&[("protected", false.into())])).unwrap();
    t.come(at("2024-03-01T23:59:59Z"));
    assert_eq!(t.ids(), [1, 2, 3], "not a second early");
    t.come(at("2024-03-02T00:00:00Z"));
    assert_eq!(t.ids(), [2, 3]);
    let point = t.service.get_checkpoint(1).unwrap();
    let Value::Map(vault) = &point["vault"] else { panic!("{point:?}") };
    let Value::Maps(members) = &vault["resources"] else { panic!("{vault:?}") };
    let states: Vec<String> = members.iter().map(|m| text(m, "protect_status")).collect();
    assert_eq!((text(&point, "status"), states), ("available".into(), vec!["removed".into(), "available".into()]));

    // For ever is for ever, and the time of manual ones never comes.
    assert_eq!(t.checkpoint(&[("auto_trigger", true.into()), ("retention_duration", Value::Int(-1))]), 2);
    assert_eq!(t.checkpoint(&[("retention_duration", Value::Int(1))]), 3);
    t.service.jobs.settle();
    t.come(at("2034-01-01T00:00:00Z"));
    assert_eq!(t.ids(), [3, 4, 5, 6, 7]);
    refused(t.service.get_checkpoint(1), ErrorKind::NotFound, "checkpoint 1");
    close(t.service);
}

#[test]
fn retention_counts_for_each_resource_of_a_checkpoint() {
    let t = Timed::new("2024-01-01T00:00:00Z");
    t.house.add(&t.service, "other");
    let week = [("auto_trigger", true.into()), ("retention_duration", Value::Int(7))];
    let only = |name: &str| [week.to_vec(), vec![("resources", strings(&[name]))]].concat();
    t.checkpoint(&week);
    t.clock.set(at("2024-01-03T00:00:00Z"));
    t.checkpoint(&only("data"));
    t.clock.set(at("2024-01-05T00:00:00Z"));
    t.checkpoint(&only("data"));
    // Of `other` there is one alone, so it stays, however old it becomes.
    for (day, left) in [
        ("2024-01-08T00:00:00Z", vec![2, 3, 4]),
        ("2024-01-09T23:59:59Z", vec![2, 3, 4]),
        ("2024-01-10T00:00:00Z", vec![2, 4]),
        ("2025-01-01T00:00:00Z", vec![2, 4]),
    ] {
        t.come(at(day));
        assert_eq!(t.ids(), left, "{day}");
    }
    close(t.service);
}
