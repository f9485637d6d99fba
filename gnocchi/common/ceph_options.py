"""Options of Ceph, which are there whether its library is installed or not."""

from oslo_config import cfg

OPTS = [
    cfg.StrOpt("ceph_pool", default="gnocchi",
               help="Pool, which has to exist and must not be erasure-coded."),
    cfg.StrOpt("ceph_username",
               help="User, without client. in front."),
    cfg.StrOpt("ceph_secret", secret=True,
               help="Key of the user, in place of a keyring."),
    cfg.StrOpt("ceph_keyring",
               help="Path of the keyring that holds the key of the user."),
    cfg.StrOpt("ceph_timeout", default="30",
               help="Seconds after which a monitor or an OSD that does not answer is away; 0 waits for ever."),
    cfg.StrOpt("ceph_conffile", default="/etc/ceph/ceph.conf",
               help="Path of the configuration file of Ceph, which tells the monitors."),
]
