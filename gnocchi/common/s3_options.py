"""Options of S3, which are there whether its library is installed or not."""

from oslo_config import cfg

OPTS = [
    cfg.StrOpt("s3_endpoint_url",
               help="URL of the server, where it is not Amazon's."),
    cfg.StrOpt("s3_region_name",
               help="Region, in which gnocchi-upgrade makes buckets, too. Unset: what the environment and the files of "
                    "AWS' tools say (AWS_DEFAULT_REGION)."),
    cfg.StrOpt("s3_access_key_id", secret=True,
               help="Access key. Unset: what the environment (AWS_ACCESS_KEY_ID), the files of AWS' tools, or the role "
                    "of the machine say."),
    cfg.StrOpt("s3_secret_access_key", secret=True,
               help="Secret key that belongs to it."),
    cfg.StrOpt("s3_bucket_prefix", default="gnocchi", max_length=26,
               help="What names of buckets begin with."),
    cfg.FloatOpt("s3_check_consistency_timeout", default=60, min=0,
                 help="Not used: no object is written twice, and S3 is consistent. Kept for files written for earlier "
                      "releases."),
    cfg.IntOpt("s3_max_pool_connections", default=50, min=1,
               help="Connections that each process keeps open at most."),
]
