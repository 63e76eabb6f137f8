//! What the tools of LVM are asked, and what they answer.
//!
//! Each is given a plain list of words, and nothing that a shell would look at. Volumes are named by
//! group and name as LVM itself told them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::model::{Error, IoContext, Result};

/// A tool that is at work for longer waits for a disk.
const LIMIT: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(5);
/// Bytes of what a tool said that an error repeats.
const SAID: usize = 400;
/// The columns that are asked for.
const COLUMNS: &str = "lv_uuid,lv_name,vg_name,lv_tags,segtype,pool_lv,lv_size,data_percent,metadata_percent,\
                       lv_active,lv_device_open,lv_kernel_major,lv_kernel_minor,lv_dm_path";

/// A logical volume.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Volume {
    /// Its own id, without the dashes.
    pub uuid: String,
    pub name: String,
    pub group: String,
    pub tags: Vec<String>,
    /// What it is: `thin`, `thin-pool`, `linear` and others.
    pub kind: String,
    /// The pool of a thin one.
    pub pool: String,
    pub bytes: u64,
    /// Of a pool: how full its data and its metadata are, in percent.
    pub full: (f64, f64),
    pub active: bool,
    pub open: bool,
    /// Its device, where it is active.
    pub device: Option<(u32, u32)>,
    /// The path of that.
    pub path: String,
}

impl Volume {
    /// Its name as the tools take it.
    pub fn spec(&self) -> String {
        format!("{}/{}", self.group, self.name)
    }

    /// What a tag of this name says.
    pub fn tag(&self, name: &str) -> Option<&str> {
        self.tags.iter().find_map(|tag| tag.strip_prefix(name)?.strip_prefix('='))
    }
}

#[derive(Deserialize)]
struct Answer {
    report: Vec<Report>,
}

#[derive(Deserialize)]
struct Report {
    #[serde(default)]
    lv: Vec<BTreeMap<String, String>>,
}

/// What `lvs` says, understood.
pub fn parse(text: &[u8]) -> Result<Vec<Volume>> {
    let answer: Answer =
        serde_json::from_slice(text).map_err(|e| Error::failed(format!("what lvs says cannot be understood: {e}")))?;
    let rows = answer.report.into_iter().flat_map(|report| report.lv);
    rows.map(|row| {
        let get = |key: &str| {
            row.get(key).map(|value| value.trim()).ok_or_else(|| Error::failed(format!("lvs does not tell {key}")))
        };
        let number = |key: &str| get(key).map(|value| value.parse().unwrap_or(0.0));
        let device = (get("lv_kernel_major")?.parse().ok(), get("lv_kernel_minor")?.parse().ok());
        Ok(Volume {
            uuid: get("lv_uuid")?.replace('-', ""),
            // Those that are parts of others are told in brackets.
            name: get("lv_name")?.trim_matches(['[', ']']).to_owned(),
            group: get("vg_name")?.to_owned(),
            tags: get("lv_tags")?.split(',').filter(|tag| !tag.is_empty()).map(str::to_owned).collect(),
            kind: get("segtype")?.to_owned(),
            pool: get("pool_lv")?.trim_matches(['[', ']']).to_owned(),
            bytes: get("lv_size")?.parse().unwrap_or(0),
            full: (number("data_percent")?, number("metadata_percent")?),
            active: get("lv_active")? == "active",
            open: get("lv_device_open")? == "open",
            device: device.0.zip(device.1),
            path: get("lv_dm_path")?.to_owned(),
        })
    })
    .collect()
}

/// All logical volumes that there are.
pub fn volumes() -> Result<Vec<Volume>> {
    let words = ["lvs", "--reportformat", "json", "--units", "b", "--nosuffix", "--options", COLUMNS];
    parse(&run(&words.map(str::to_owned))?)
}

/// Whether the tools are there, as far as that is to be known without running them.
pub fn is_installed() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    std::env::split_paths(&path).any(|dir| dir.join("lvm").is_file())
}

/// Says what is missing where they are not.
pub fn not_installed() -> Error {
    Error::invalid_state("the tools of LVM are not installed; install the package lvm2")
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// The words that make a thin snapshot `name` of a volume. It is not activated by whoever activates
/// all that there is, unless it is to be `lasting`.
pub fn snapshot(of: &Volume, name: &str, tags: &[String], lasting: bool) -> Vec<String> {
    let skip = if lasting { "n" } else { "y" };
    // By its type and not as `--snapshot`, for which lvcreate would load what thick ones need.
    let mut all = words(&["lvcreate", "--yes", "--type", "thin", "--setactivationskip", skip, "--name", name]);
    if lasting {
        // It gets into its place first.
        all.extend(words(&["--activate", "n"]));
    }
    all.extend(tags.iter().flat_map(|tag| ["--addtag".to_owned(), tag.clone()]));
    all.push(of.spec());
    all
}

/// The words that give a volume tags, and take others.
pub fn tag(volume: &Volume, add: &[String], take: &[String]) -> Vec<String> {
    let mut all = words(&["lvchange", "--yes"]);
    all.extend(add.iter().flat_map(|tag| ["--addtag".to_owned(), tag.clone()]));
    all.extend(take.iter().flat_map(|tag| ["--deltag".to_owned(), tag.clone()]));
    all.push(volume.spec());
    all
}

/// The words that make a volume's device be there, or not.
pub fn activate(group: &str, name: &str, on: bool) -> Vec<String> {
    let how = if on { "y" } else { "n" };
    let mut all = words(&["lvchange", "--yes", "--ignoreactivationskip", "--activate", how]);
    all.push(format!("{group}/{name}"));
    all
}

/// The words that give a volume another name.
pub fn rename(group: &str, from: &str, to: &str) -> Vec<String> {
    words(&["lvrename", "--yes", group, from, to])
}

/// The words that remove a volume with all that is in it.
pub fn remove(volume: &Volume) -> Vec<String> {
    words(&["lvremove", "--yes", "--force", &volume.spec()])
}

/// Runs one of the tools, and gives what it said.
pub fn run(words: &[String]) -> Result<Vec<u8>> {
    let name = words.first().map_or("lvm", String::as_str);
    let what = || format!("cannot run {name}");
    let output = || rustix::fs::memfd_create("output", rustix::fs::MemfdFlags::CLOEXEC).map(File::from).at(what);
    let (mut said, mut wrong) = (output()?, output()?);
    let mut command = Command::new("lvm");
    command.args(words.first());
    // Who watches over pools does so already, and must not become a child of ours; nor may we hurry more
    // than others.
    command.args(["--config", "activation { monitoring=0 process_priority=0 }"]);
    command.args(words.get(1..).unwrap_or_default());
    command.env("LC_ALL", "C").env("LVM_SUPPRESS_FD_WARNINGS", "1").current_dir("/").stdin(Stdio::null());
    command.stdout(said.try_clone().at(what)?).stderr(wrong.try_clone().at(what)?);
    let mut child = match command.spawn() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(not_installed()),
        spawned => spawned.at(what)?,
    };
    let until = Instant::now() + LIMIT;
    let status = loop {
        match child.try_wait().at(what)? {
            Some(status) => break status,
            None if Instant::now() < until => std::thread::sleep(LOOK),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                return Err(Error::failed(format!(
                    "{name} was ended, because it took longer than {} s",
                    LIMIT.as_secs()
                )));
            }
        }
    };
    let text = |file: &mut File| -> Result<Vec<u8>> {
        let mut text = Vec::new();
        file.rewind().and_then(|()| file.read_to_end(&mut text)).at(what)?;
        Ok(text)
    };
    if status.success() {
        return text(&mut said);
    }
    let text = text(&mut wrong)?;
    let text = String::from_utf8_lossy(text.get(text.len().saturating_sub(SAID)..).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Err(Error::failed(format!("{name} failed: {}", lines.join("; "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As lvs 2.03.16 says it.
    const SAID: &[u8] = br#"  {
      "report": [
          {
              "lv": [
                  {"lv_uuid":"Yy8cHN-0000-aaaa-bbbb-cccc-dddd-XkQ2e1", "lv_name":"data", "vg_name":"vg-0", "lv_tags":"", "segtype":"thin", "pool_lv":"pool", "lv_size":"1073741824", "data_percent":"12.50", "metadata_percent":"", "lv_active":"active", "lv_device_open":"open", "lv_kernel_major":"254", "lv_kernel_minor":"4", "lv_dm_path":"/dev/mapper/vg--0-data"},
                  {"lv_uuid":"000000-0000-0000-0000-0000-0000-000000", "lv_name":"pool", "vg_name":"vg-0", "lv_tags":"", "segtype":"thin-pool", "pool_lv":"", "lv_size":"2147483648", "data_percent":"97.01", "metadata_percent":"11.23", "lv_active":"active", "lv_device_open":"", "lv_kernel_major":"254", "lv_kernel_minor":"2", "lv_dm_path":"/dev/mapper/vg--0-pool"},
                  {"lv_uuid":"111111-0000-0000-0000-0000-0000-000000", "lv_name":"strongroom-1", "vg_name":"vg-0", "lv_tags":"strongroom,strongroom.snapshot=7d8e,theirs", "segtype":"thin", "pool_lv":"pool", "lv_size":"1073741824", "data_percent":"", "metadata_percent":"", "lv_active":"", "lv_device_open":"", "lv_kernel_major":"-1", "lv_kernel_minor":"-1", "lv_dm_path":"/dev/mapper/vg--0-strongroom--1"}
              ]
          }
      ]
  }
"#;

    #[test]
    fn what_lvs_says_is_understood() {
        let found = parse(SAID).unwrap();
        assert_eq!(found.len(), 3);
        let data = &found[0];
        assert_eq!((data.spec().as_str(), data.kind.as_str(), data.pool.as_str()), ("vg-0/data", "thin", "pool"));
        assert_eq!((data.device, data.active, data.open, data.bytes), (Some((254, 4)), true, true, 1 << 30));
        assert_eq!(data.uuid, "Yy8cHN0000aaaabbbbccccddddXkQ2e1");
        assert_eq!(found[1].full, (97.01, 11.23));
        let ours = &found[2];
        assert_eq!((ours.active, ours.device), (false, None));
        assert_eq!(
            (ours.tag("strongroom.snapshot"), ours.tag("theirs"), ours.tag("strongroom")),
            (Some("7d8e"), None, None)
        );
        assert_eq!(parse(br#"{"report":[{"lv":[]}]}"#).unwrap(), []);
        assert!(parse(b"  Failed").unwrap_err().message.contains("cannot be understood"));
        assert!(parse(br#"{"report":[{"lv":[{"lv_name":"x"}]}]}"#).unwrap_err().message.contains("does not tell lv_"));
    }

    #[test]
    fn tools_are_told_what_to_do() {
        let data = &parse(SAID).unwrap()[0];
        let line = |words: Vec<String>| words.join(" ");
        let tags = ["strongroom".to_owned(), "strongroom.snapshot=7".to_owned()];
        assert_eq!(
            line(snapshot(data, "s", &tags, false)),
            "lvcreate --yes --type thin --setactivationskip y --name s --addtag strongroom --addtag strongroom.snapshot=7 \
             vg-0/data"
        );
        assert_eq!(
            line(snapshot(data, "s", &[], true)),
            "lvcreate --yes --type thin --setactivationskip n --name s --activate n vg-0/data"
        );
        assert_eq!(
            line(tag(data, &tags[..1], &tags[1..])),
            "lvchange --yes --addtag strongroom --deltag strongroom.snapshot=7 vg-0/data"
        );
        assert_eq!(
            line(activate("vg-0", "data", true)),
            "lvchange --yes --ignoreactivationskip --activate y vg-0/data"
        );
        assert_eq!(line(rename("vg-0", "a", "b")), "lvrename --yes vg-0 a b");
        assert_eq!(line(remove(data)), "lvremove --yes --force vg-0/data");
    }
}
