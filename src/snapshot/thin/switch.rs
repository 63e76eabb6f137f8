//! One thin volume in place of another: a snapshot's for the one that it is of.
//!
//! A new volume is made of the snapshot. What is mounted is unmounted, the two exchange their names,
//! and the new one is mounted as the old one was. Every step looks at what LVM says there is, by
//! the volumes' own ids, so it can be done again after a crash, in either direction.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::super::take::gone;
use super::super::{Part, Place};
use super::lvm::{self, Volume};
use super::{NAME, OURS, PAUSE, TRIES, find, remove_volume};
use crate::model::{Error, IoContext, Result, paths};
use crate::source::mounts::{self, Mount};
use crate::source::users;

/// Says of a volume that it is on its way into its place, for which restore.
const RESTORE: &str = "strongroom.restore";

/// How a file system was mounted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Mounted {
    fs: String,
    options: String,
}

/// A volume that is exchanged.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Switch {
    #[serde(with = "paths::one")]
    path: PathBuf,
    group: String,
    /// The name that the one in place has.
    name: String,
    /// The name of the new one until it is in place.
    ahead: String,
    /// The name of the old one afterwards.
    aside: String,
    /// The restore that it is for.
    stage: Uuid,
    /// The ids of both.
    old: String,
    new: Option<String>,
    mounted: Option<Mounted>,
}

/// What is done next to bring one of them into its place.
#[derive(Debug, PartialEq)]
enum Step {
    Rename(String, String),
}

/// The renames that bring the volume `wanted` to its name, the other one to `away`.
fn renames(all: &[Volume], switch: &Switch, wanted: &str, other: &str, away: &str) -> Result<Vec<Step>> {
    let find = |uuid: &str| all.iter().find(|v| v.group == switch.group && v.uuid == uuid);
    let missing = |what: &str| {
        Error::failed(format!("the volume {what} that {}/{} is exchanged with is gone", switch.group, switch.name))
    };
    let to = find(wanted).ok_or_else(|| missing("in its place"))?;
    let mut steps = Vec::new();
    if let Some(from) = find(other).filter(|from| from.name == switch.name) {
        steps.push(Step::Rename(from.name.clone(), away.to_owned()));
    }
    let taken =
        all.iter().any(|v| v.group == switch.group && v.name == switch.name && v.uuid != wanted && v.uuid != other);
    if taken {
        return Err(Error::failed(format!(
            "another volume is called {}/{} by now; give it another name",
            switch.group, switch.name
        )));
    }
    if to.name != switch.name {
        steps.push(Step::Rename(to.name.clone(), switch.name.clone()));
    }
    Ok(steps)
}

impl Switch {
    /// Plans it, and refuses what cannot be. Changes nothing.
    pub fn plan(stage: Uuid, number: usize, snapshot: Uuid, part: &Part, mounts: &[Mount]) -> Result<Self> {
        let shown = part.path.display();
        if part.path == Path::new("/") {
            return Err(Error::invalid_state(
                "/ cannot be unmounted while the machine runs, so a snapshot of its volume cannot be restored from within; \
                 restore it from a rescue system: lvconvert --merge",
            ));
        }
        let place = Place::look(&part.path, mounts)?;
        let mut origin = place.as_ref().and_then(|place| place.thin.clone()).ok_or_else(|| {
            Error::invalid_state(format!("{shown} is no thin volume now, or not mounted; mount it as it was"))
        })?;
        let here: Vec<&Mount> = mounts.iter().filter(|m| m.device == origin.device).collect();
        let mounted = place
            .as_ref()
            .filter(|place| place.is_mount())
            .map(|place| Mounted { fs: place.mount.fs.clone(), options: place.mount.options() });
        if let Some(other) = here.iter().find(|m| mounted.is_none() || m.point != part.path) {
            return Err(Error::invalid_state(format!(
                "the volume under {shown} is mounted at {} as well, where it would stay; unmount it there first",
                other.point.display()
            )));
        }
        if here.len() > 1 {
            return Err(Error::invalid_state(format!(
                "{shown} is mounted {} times over itself; unmount all but one",
                here.len()
            )));
        }
        if let Some(place) = &place {
            place.refuse_mounts(mounts)?;
        }
        let volume = origin.ready(&part.path)?.clone();
        let taken = find(snapshot, part.store)?.ok_or_else(|| gone(part))?;
        if taken.group != volume.group {
            return Err(Error::invalid_state(format!(
                "{shown} lies in the volume group {} now, and the snapshot in {}; mount the volume that was there",
                volume.group, taken.group
            )));
        }
        let ahead = format!("{NAME}restore-{}-{number}", stage.simple());
        let aside = format!("{ahead}-replaced");
        let (group, name, old) = (volume.group, volume.name, volume.uuid);
        Ok(Self { path: part.path.clone(), group, name, ahead, aside, stage, old, new: None, mounted })
    }

    /// Makes the new volume out of the snapshot, which stays.
    pub fn make(&mut self, snapshot: Uuid, part: &Part) -> Result<()> {
        let taken = find(snapshot, part.store)?.ok_or_else(|| gone(part))?;
        let all = lvm::volumes()?;
        let theirs = all.iter().find(|v| v.uuid == self.old).map(|v| v.tags.clone()).unwrap_or_default();
        // What others say of a volume by its tags is said of the new one as well.
        let mut tags: Vec<String> = theirs.into_iter().filter(|tag| !tag.starts_with(OURS)).collect();
        tags.push(format!("{RESTORE}={}", self.stage));
        lvm::run(&lvm::snapshot(&taken, &self.ahead, &tags, true))
            .map_err(|e| e.context(format!("cannot make a volume of the snapshot of {}", self.path.display())))?;
        let made = lvm::volumes()?.into_iter().find(|v| v.group == self.group && v.name == self.ahead);
        self.new = Some(made.ok_or_else(|| Error::failed("lvs does not tell of a volume that was just made"))?.uuid);
        Ok(())
    }

    /// Brings the one or the other into its place, and mounts it.
    pub fn turn(&self, forward: bool) -> Result<()> {
        let Some(new) = &self.new else { return Ok(()) };
        let (wanted, other) = if forward { (new, &self.old) } else { (&self.old, new) };
        let away = if forward { &self.aside } else { &self.ahead };
        let all = lvm::volumes()?;
        let in_place = all.iter().find(|v| v.uuid == *wanted && v.group == self.group && v.name == self.name);
        let there =
            |v: &Volume, mounts: &[Mount]| mounts.iter().any(|m| m.point == self.path && Some(m.device) == v.device);
        if in_place
            .is_some_and(|v| v.active && (self.mounted.is_none() || there(v, &mounts::all().unwrap_or_default())))
        {
            return self.rest(&all, other);
        }
        self.unmount(&all, other)?;
        for Step::Rename(from, to) in renames(&all, self, wanted, other, away)? {
            lvm::run(&lvm::rename(&self.group, &from, &to))?;
        }
        lvm::run(&lvm::activate(&self.group, &self.name, true))?;
        self.mount(wanted)?;
        self.rest(&lvm::volumes()?, other)
    }

    /// What is not in place has no device, so that nothing is mistaken for it.
    fn rest(&self, all: &[Volume], other: &str) -> Result<()> {
        match all.iter().find(|v| v.uuid == other && v.group == self.group) {
            Some(volume) if volume.active => lvm::run(&lvm::activate(&self.group, &volume.name, false)).map(drop),
            _ => Ok(()),
        }
    }

    /// Unmounts what is to go, and makes sure that nobody has it.
    fn unmount(&self, all: &[Volume], other: &str) -> Result<()> {
        let Some(device) = all.iter().find(|v| v.uuid == other).and_then(|v| v.device) else { return Ok(()) };
        let what = || format!("cannot unmount {}", self.path.display());
        if self.mounted.is_some() && mounts::all()?.iter().any(|m| m.point == self.path && m.device == device) {
            match unmount(&self.path, UnmountFlags::NOFOLLOW) {
                Err(Errno::BUSY) => return Err(self.busy()),
                unmounted => unmounted.at(what)?,
            }
        }
        let since = Instant::now();
        while lvm::volumes()?.iter().any(|v| v.uuid == other && v.open) {
            if since.elapsed() > PAUSE * TRIES {
                // As it was: whoever has it goes on.
                self.mount(other)?;
                return Err(Error::invalid_state(format!(
                    "the volume {}/{} is still in use by somebody, though {} was unmounted; end what uses it, or name its \
                     units in the resource",
                    self.group,
                    self.name,
                    self.path.display()
                )));
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn busy(&self) -> Error {
        let users = users::beneath(&self.path).unwrap_or_default();
        let who = if users.is_empty() { "somebody".to_owned() } else { users::words(&users) };
        Error::invalid_state(format!(
            "{} is in use by {who}, so its volume cannot be exchanged; name the units in the resource, so that they are \
             stopped, or end what uses it",
            self.path.display()
        ))
    }

    /// Mounts the volume of that id where it was, unless it is.
    fn mount(&self, uuid: &str) -> Result<()> {
        let Some(mounted) = &self.mounted else { return Ok(()) };
        let volume = lvm::volumes()?.into_iter().find(|v| v.uuid == uuid);
        let volume = volume.ok_or_else(|| Error::failed("the volume to be mounted is gone"))?;
        if mounts::all()?.iter().any(|m| m.point == self.path && Some(m.device) == volume.device) {
            return Ok(());
        }
        let what = || format!("cannot mount {} at {}", volume.spec(), self.path.display());
        let mut command = Command::new("mount");
        command.args(["--types", &mounted.fs, "--options", &mounted.options, "--source", &volume.path, "--target"]);
        command.arg(&self.path).current_dir("/").env("LC_ALL", "C").stdin(Stdio::null());
        let output = command.output().at(what)?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        Err(Error::failed(format!("{}: {said}", what())))
    }

    /// Removes what is not in place: before the exchange the new one, after it the old one.
    pub fn clean(&self) -> Result<()> {
        for volume in lvm::volumes()?.into_iter().filter(|v| v.group == self.group) {
            let ours = volume.tag(RESTORE) == Some(self.stage.to_string().as_str());
            let ahead = volume.name == self.ahead && ours;
            let aside = volume.name == self.aside && volume.uuid == self.old;
            if ahead || aside {
                remove_volume(&volume)?;
            } else if volume.name == self.name && Some(&volume.uuid) == self.new.as_ref() && ours {
                lvm::run(&lvm::tag(&volume, &[], &[format!("{RESTORE}={}", self.stage)]))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn switch() -> Switch {
        Switch {
            path: "/srv".into(),
            group: "vg".into(),
            name: "data".into(),
            ahead: "ahead".into(),
            aside: "aside".into(),
            stage: Uuid::nil(),
            old: "OLD".into(),
            new: Some("NEW".into()),
            mounted: None,
        }
    }

    fn named(names: &[(&str, &str)]) -> Vec<Volume> {
        let volume = |(uuid, name): &(&str, &str)| Volume {
            uuid: (*uuid).into(),
            name: (*name).into(),
            group: "vg".into(),
            ..Volume::default()
        };
        names.iter().map(volume).collect()
    }

    #[test]
    fn names_are_exchanged_from_whatever_a_crash_left() {
        let switch = switch();
        let forward = |names: &[(&str, &str)]| renames(&named(names), &switch, "NEW", "OLD", "aside");
        let back = |names: &[(&str, &str)]| renames(&named(names), &switch, "OLD", "NEW", "ahead");
        let step = |from: &str, to: &str| Step::Rename(from.into(), to.into());
        let (before, between, after) = (
            [("OLD", "data"), ("NEW", "ahead")],
            [("OLD", "aside"), ("NEW", "ahead")],
            [("OLD", "aside"), ("NEW", "data")],
        );
        assert_eq!(forward(&before).unwrap(), [step("data", "aside"), step("ahead", "data")]);
        assert_eq!(forward(&between).unwrap(), [step("ahead", "data")]);
        assert_eq!(forward(&after).unwrap(), []);
        assert_eq!(back(&after).unwrap(), [step("data", "ahead"), step("aside", "data")]);
        assert_eq!(back(&between).unwrap(), [step("aside", "data")]);
        assert_eq!(back(&[("OLD", "aside"), ("NEW", "data")]).unwrap().len(), 2);
        assert_eq!(back(&before).unwrap(), []);
        // A name that somebody else's volume took meanwhile is not taken from it.
        let taken = [("OLD", "aside"), ("NEW", "ahead"), ("THEIRS", "data")];
        assert!(back(&taken).unwrap_err().message.contains("another volume is called vg/data"));
        assert!(back(&[("NEW", "data")]).unwrap_err().message.contains("is gone"));
    }
}
