"""Every error that crosses a module border.

    GnocchiError
    +-- ClientError                the client is wrong; rest/errors.py alone maps these to a status
    |   +-- NotFound               NoSuchArchivePolicy, NoSuchArchivePolicyRule, NoSuchMetric,
    |   |                          NoSuchResource, NoSuchResourceType, AggregationDoesNotExist,
    |   |                          GranularityDoesNotExist
    |   +-- Conflict               ArchivePolicyAlreadyExists, ArchivePolicyRuleAlreadyExists,
    |   |                          ResourceAlreadyExists, ResourceTypeAlreadyExists,
    |   |                          NamedMetricAlreadyExists
    |   +-- InUse                  ArchivePolicyInUse, ResourceTypeInUse
    |   +-- UnsupportedChange      UnsupportedArchivePolicyChange, UnsupportedArchivePolicyRuleChange
    |   +-- InvalidInput           bad value that no schema could see (InvalidPagination, InvalidArchivePolicy,
    |                              NoArchivePolicyRuleMatch, InvalidResource)
    |   +-- TooLarge               more bytes than this server takes
    +-- BackendUnavailable         a back end is unwell; the work stays queued, answers are 503
    |   +-- SackLocked             the lock of a sack was not obtained in time
    |   +-- ChangedMeanwhile       what a request looked at before a write has changed; the request looks again
    |   +-- UnknownFormat          stored bytes are sound, but of a format that only a newer release reads
    +-- CommitLost                 somebody else committed this sack first; nothing was made visible
    +-- CorruptedData              stored bytes are damaged: names object key and offset
    +-- ObjectNotFound             a storage key does not exist
    +-- InvalidConfiguration       options contradict each other or name what does not exist
"""


class GnocchiError(Exception):
    """Root of all errors below."""


class ClientError(GnocchiError):
    """The request cannot be carried out as the client sent it."""


class NotFound(ClientError):
    """What the client named does not exist."""


class Conflict(ClientError):
    """The name or id is taken."""


class InUse(ClientError):
    """It cannot be deleted because something refers to it."""


class UnsupportedChange(ClientError):
    """This part of it can never change."""


class InvalidInput(ClientError):
    """The value is well formed but cannot be accepted."""


class TooLarge(ClientError):
    """It has more bytes than this server takes."""


class NoSuchArchivePolicy(NotFound):
    def __init__(self, name):
        super().__init__(f"Archive policy {name} does not exist")
        self.archive_policy = name


class NoSuchArchivePolicyRule(NotFound):
    def __init__(self, name):
        super().__init__(f"Archive policy rule {name} does not exist")
        self.archive_policy_rule = name


class NoSuchMetric(NotFound):
    def __init__(self, metric):
        super().__init__(f"Metric {metric} does not exist")
        self.metric = metric


class NoSuchResource(NotFound):
    def __init__(self, resource):
        super().__init__(f"Resource {resource} does not exist")
        self.resource = resource


class NoSuchResourceType(NotFound):
    def __init__(self, name):
        super().__init__(f"Resource type {name} does not exist")
        self.resource_type = name


class AggregationDoesNotExist(NotFound):
    """The metric's archive policy does not hold this aggregation method."""

    def __init__(self, metric_id, method):
        super().__init__(f"Aggregation method '{method}' for metric {metric_id} does not exist")
        self.metric_id = metric_id
        self.method = method


class GranularityDoesNotExist(NotFound):
    """The metric's archive policy does not hold this granularity (given in float seconds)."""

    def __init__(self, metric_id, method, granularity_s):
        super().__init__(
            f"Aggregation method '{method}' at granularity '{granularity_s}' for metric {metric_id} does not exist")
        self.metric_id = metric_id
        self.method = method
        self.granularity_s = granularity_s


class ArchivePolicyAlreadyExists(Conflict):
    def __init__(self, name):
        super().__init__(f"Archive policy {name} already exists")
        self.archive_policy = name


class ArchivePolicyRuleAlreadyExists(Conflict):
    def __init__(self, name):
        super().__init__(f"Archive policy rule {name} already exists")
        self.archive_policy_rule = name


class ResourceAlreadyExists(Conflict):
    def __init__(self, resource):
        super().__init__(f"Resource {resource} already exists")
        self.resource = resource


class ResourceTypeAlreadyExists(Conflict):
    def __init__(self, name):
        super().__init__(f"Resource type {name} already exists")
        self.resource_type = name


class NamedMetricAlreadyExists(Conflict):
    def __init__(self, name):
        super().__init__(f"Named metric {name} already exists")
        self.metric_name = name


class ArchivePolicyInUse(InUse):
    def __init__(self, name):
        super().__init__(f"Archive policy {name} is still in use")
        self.archive_policy = name


class ResourceTypeInUse(InUse):
    def __init__(self, name):
        super().__init__(f"Resource type {name} is still in use")
        self.resource_type = name


class UnsupportedArchivePolicyChange(UnsupportedChange):
    def __init__(self, name, reason):
        super().__init__(f"Archive policy {name} does not support change: {reason}")


class UnsupportedArchivePolicyRuleChange(UnsupportedChange):
    def __init__(self, name, reason):
        super().__init__(f"Archive policy rule {name} does not support change: {reason}")


class InvalidArchivePolicy(InvalidInput):
    """The items of a definition contradict each other."""


class InvalidPagination(InvalidInput):
    def __init__(self, reason):
        super().__init__(f"Invalid pagination: `{reason}'")


class NoArchivePolicyRuleMatch(InvalidInput):
    def __init__(self, metric_name):
        super().__init__(
            f"No archive policy name specified and no archive policy rule found matching the metric name {metric_name}")
        self.metric_name = metric_name


class InvalidResource(InvalidInput):
    """A resource's values contradict each other."""


class BackendUnavailable(GnocchiError):
    """A database, store or coordinator does not answer; the text says which and why, without secrets."""


class SackLocked(BackendUnavailable):
    def __init__(self, sack):
        super().__init__(f"Sack {sack} is locked")
        self.sack = sack


class ChangedMeanwhile(BackendUnavailable):
    def __init__(self, what):
        super().__init__(f"{what} was changed by others again and again meanwhile")


class UnknownFormat(BackendUnavailable):
    """Not damage: nothing may be left out, parked or given up because of it, for a newer release reads it."""

    def __init__(self, key, offset, what, version, known):
        super().__init__(f"{key} at byte {offset}: {what} of format {version}, of which this release knows only "
                         f"{known}; a newer one wrote it, and has to read it")
        self.key = key
        self.version = version


class CommitLost(GnocchiError):
    def __init__(self, sack, sequence):
        super().__init__(f"Sack {sack} was committed by somebody else after sequence {sequence}")
        self.sack = sack
        self.sequence = sequence


class CorruptedData(GnocchiError):
    """Stored bytes fail their checksum or cannot be decoded."""

    def __init__(self, key, offset, reason):
        super().__init__(f"{key} at byte {offset}: {reason}")
        self.key = key
        self.offset = offset
        self.reason = reason


class ObjectNotFound(GnocchiError):
    def __init__(self, key):
        super().__init__(f"Object {key} does not exist")
        self.key = key


class InvalidConfiguration(GnocchiError):
    """What the operator configured cannot work; the text names the option and is one line, without secrets."""
