"""OpenStack Swift with its S3 interface: four servers over one directory, for tests.

    python3 swift_server.py DIR PORT KEY SECRET

Ready when PORT answers; PORT+1 to PORT+3 are taken too. Ends with whoever started it.
"""

import ctypes
import os
import signal
import sys
import time

DIR, PORT, KEY, SECRET = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
KINDS = ["account", "container", "object"]
MAIN = os.getpid()


def end_with_parent():
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


end_with_parent()

from swift.common import utils  # noqa: E402
from swift.common.ring import RingBuilder  # noqa: E402
from swift.common.wsgi import run_wsgi  # noqa: E402


def write(name, text):
    with open(f"{DIR}/{name}", "w") as file:
        file.write(text)


os.makedirs(f"{DIR}/dev/d1", exist_ok=True)
write(
    "swift.conf",
    "[swift-hash]\nswift_hash_path_suffix = s\nswift_hash_path_prefix = p\n"
    "[storage-policy:0]\nname = gold\ndefault = yes\n",
)
for n, kind in enumerate(KINDS):
    ring = RingBuilder(0, 1, 0)
    ring.add_dev(
        {"id": 0, "region": 1, "zone": 1, "ip": "127.0.0.1", "port": PORT + 1 + n, "device": "d1", "weight": 1.0}
    )
    ring.rebalance()
    ring.get_ring().save(f"{DIR}/{kind}.ring.gz")
    write(
        f"{kind}.conf",
        f"[DEFAULT]\nswift_dir = {DIR}\ndevices = {DIR}/dev\nmount_check = false\nbind_ip = 127.0.0.1\n"
        f"bind_port = {PORT + 1 + n}\nworkers = 0\nuser = root\nlog_level = ERROR\nfallocate_reserve = 0\n"
        f"disable_fallocate = true\n[pipeline:main]\npipeline = {kind}-server\n"
        f"[app:{kind}-server]\nuse = egg:swift#{kind}\n",
    )
write(
    "proxy.conf",
    f"[DEFAULT]\nswift_dir = {DIR}\nbind_ip = 127.0.0.1\nbind_port = {PORT}\nworkers = 0\nuser = root\n"
    "log_level = ERROR\n[pipeline:main]\npipeline = catch_errors cache s3api tempauth copy slo dlo proxy-server\n"
    # Asked for by tempauth, and not needed: nobody listens there.
    "[filter:cache]\nuse = egg:swift#memcache\nmemcache_servers = 127.0.0.1:1\n"
    "[filter:catch_errors]\nuse = egg:swift#catch_errors\n[filter:s3api]\nuse = egg:swift#s3api\n"
    f"[filter:tempauth]\nuse = egg:swift#tempauth\nuser_{KEY.replace(':', '_')} = {SECRET} .admin\n"
    "[filter:copy]\nuse = egg:swift#copy\n[filter:slo]\nuse = egg:swift#slo\n[filter:dlo]\nuse = egg:swift#dlo\n"
    "[app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\n",
)
utils.set_swift_dir(DIR)
for kind in [*KINDS, "proxy"]:
    if os.fork() == 0:
        end_with_parent()
        log = os.open(f"{DIR}/{kind}.log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        run_wsgi(f"{DIR}/{kind}.conf", f"{kind}-server", verbose=True)
        os._exit(1)
while True:
    time.sleep(3600)
