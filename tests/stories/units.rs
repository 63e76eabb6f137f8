//! Units that use the data, where there is no service manager: nothing is touched. (Where there is
//! one, `tests/machine/stories/08-units.sh` tells.)

use crate::common::{Daemon, sh};
use crate::needs_root;

const INVALID: &str = "org.strongroom1.Error.InvalidArgument";
const STATE: &str = "org.strongroom1.Error.InvalidState";

#[test]
fn without_a_service_manager_a_resource_with_units_is_not_restored_in_place() {
    needs_root!("without_a_service_manager_a_resource_with_units_is_not_restored_in_place");
    let mut daemon = Daemon::start();
    sh(&daemon.source(), "echo good > file");
    daemon.ok(&format!(
        "AddResource sa{{sv}} app 2 paths as 1 {} units as 2 app.service app.socket",
        daemon.source().display()
    ));
    for unit in ["app", "../app.service", "app@.service", "srv.mount", "strongroomd.service", "dbus.service"] {
        let failure = daemon.call(&format!("UpdateResource sa{{sv}} app 1 units as 1 {unit}")).unwrap_err();
        assert_eq!(failure.name, INVALID, "{unit}: {failure:?}");
        assert!(failure.message.contains("units") && failure.message.contains(unit), "{failure:?}");
    }
    daemon.back_up("app");
    sh(&daemon.source(), "echo bad > file; echo more > more");
    let before = daemon.catalog();
    for call in ["RestoreBackup ta{sv} 1 1 confirm b true", "RestoreServer sta{sv} app 1 1 confirm b true"] {
        let failure = daemon.call(call).unwrap_err();
        assert_eq!(failure.name, STATE, "{call}: {failure:?}");
        assert!(failure.message.contains("no service manager") && failure.message.contains("target"), "{failure:?}");
    }
    assert_eq!(daemon.catalog(), before);
    assert_eq!(sh(&daemon.source(), "cat file more"), "bad\nmore\n");
    // What stops nothing needs none.
    let job = daemon.work("RestoreBackup ta{sv} 1 1 dry_run b true");
    assert_eq!(job["result"]["units_stopped"], 0);
    daemon.restore(1, "target");
    daemon.ok("UpdateResource sa{sv} app 1 units as 0");
    let job = daemon.work("RestoreBackup ta{sv} 1 1 confirm b true");
    assert_eq!(
        (&job["result"]["units_stopped"], &job["result"]["message"]),
        (&0.into(), &"no units were stopped".into())
    );
    assert_eq!(sh(&daemon.source(), "cat file; ls"), "good\nfile\n");
    daemon.assert_well();
}
