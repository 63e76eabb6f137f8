//! The configuration's page: its examples load, and it names every key there is.

use super::*;

const PAGE: &str = include_str!("../../../docs/configuration.md");

/// What stands between fences in the page, by its language.
fn examples(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    PAGE.split(fence.as_str()).skip(1).filter_map(|rest| rest.split("```").next()).collect()
}

#[test]
fn every_example_of_the_page_loads() {
    let found = examples("toml");
    assert!(found.len() >= 6, "the page has lost its examples");
    let all = found.concat();
    for text in found.iter().copied().chain([all.as_str()]) {
        let house = House::new();
        let place = house.dir.path().to_str().unwrap();
        // Only where things lie is another matter here.
        let text = text.replace("\"/srv/copies\"", &format!("\"{place}/copies\""));
        let text = text.replace("\"/srv/other\"", &format!("\"{place}/other\""));
        let text = text.replace("\"/srv/mirror\"", &format!("\"{place}/mirror\""));
        std::fs::write(house.path("strongroom.toml"), &text).unwrap();
        let service = Service::open(house.options()).unwrap_or_else(|e| panic!("{text}\n{e}"));
        let (_, resources) = service.list_resources(map(&[])).unwrap();
        assert_eq!(resources.len(), text.matches("[resource.").count());
        let (_, projects) = service.list_projects(map(&[])).unwrap();
        assert_eq!(projects.len(), 1 + text.matches("[project.").count());
        let (_, schedules) = service.list_schedules(map(&[])).unwrap();
        assert_eq!(schedules.len(), text.matches("[schedule.").count());
        assert!(text.contains("[task.stick]") == service.get_task("1").is_ok());
        drop_whole(service);
    }
}

/// The keys that a source takes from a map, as `args.TYPE("key"`.
fn taken(source: &str) -> Vec<&str> {
    // Of what reads nothing else, all of it.
    let start = source.find("fn take(").unwrap_or(0);
    let end = source[start..].find("impl Service").map_or(source.len(), |at| start + at);
    let source = &source[start..end];
    let calls = ["bool", "string", "choice", "integer", "uint", "strings", "paths", "map", "maps", "fd", "value"];
    let mut keys = Vec::new();
    // What takes small numbers is a function of its own.
    keys.extend(source.split("small(&mut args, \"").skip(1).filter_map(|rest| rest.split('"').next()));
    for call in calls {
        let start = format!("{call}(\"");
        keys.extend(source.split(start.as_str()).skip(1).filter_map(|rest| rest.split('"').next()));
    }
    keys.sort_unstable();
    keys.dedup();
    keys
}

#[test]
fn the_page_names_every_key() {
    let mut missing = Vec::new();
    for source in [
        include_str!("../projects.rs"),
        include_str!("../places.rs"),
        include_str!("../vaults.rs"),
        include_str!("../resources.rs"),
        include_str!("../scheduleform.rs"),
        include_str!("../taskform.rs"),
    ] {
        let keys = taken(source);
        assert!(!keys.is_empty());
        missing.extend(keys.into_iter().filter(|k| *k != "name" && !PAGE.contains(&format!("`{k}`"))));
    }
    for key in ["before", "after", "region", "storage_class"] {
        assert!(PAGE.contains(&format!("`{key}`")), "{key}");
    }
    // Settings stand in the structure that the files are read into.
    let config = include_str!("../config.rs");
    for line in
        config.lines().map(str::trim).filter(|l| l.contains(": Option<") && l.ends_with(",") && !l.starts_with("pub "))
    {
        let key = line.split(':').next().unwrap();
        if !examples("toml").iter().any(|text| text.lines().any(|l| l.split('=').next().unwrap().trim() == key)) {
            missing.push(key);
        }
    }
    assert!(missing.is_empty(), "docs/configuration.md says nothing of {missing:?}");
}
