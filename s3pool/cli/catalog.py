"""The names of all commands, and what each is for."""

from __future__ import annotations

# The commands, which are modules of these names in cli/commands but for MODULES, and what each is for.
GROUPS = {
    "look": {
        "ls": "list buckets, objects and prefixes",
        "tree": "draw the directories below a prefix",
        "find": "find objects by name, size and age",
        "stat": "show everything about objects, buckets and prefixes",
        "du": "count objects and bytes",
        "head": "show the first lines or bytes of objects",
        "cat": "write objects to standard output",
        "diff": "show what differs between two trees",
        "check": "prove that two trees, or all nodes, hold the same",
    },
    "copy, move and delete": {
        "cp": "copy files and objects, to and from S3 and inside it",
        "mv": "move files and objects: copy, verify, then delete",
        "sync": "make a directory or prefix like another one",
        "mirror": "sync with the flags of mc mirror",
        "pipe": "store standard input as an object",
        "rm": "delete objects",
        "undo": "bring keys, prefixes or versioned buckets back to how they were",
    },
    "buckets, and what they and objects are set to": {
        "mb": "make buckets",
        "rb": "remove buckets",
        "tag": "show, set and remove the tags of objects and buckets",
        "version": "show, enable and suspend the versions of buckets",
        "retention": "show, set and clear how long objects are kept",
        "legalhold": "show legal holds of objects, and put them on and off",
        "policy": "show, set and remove the policies of buckets",
        "anonymous": "show and set what anybody may do without keys",
        "ilm": "show and change the lifecycle rules of buckets",
        "cors": "show, set and remove the CORS rules of buckets",
        "encrypt": "show, set and remove the default encryption of buckets",
        "restore": "ask for copies of archived objects",
    },
    "the pool": {
        "ping": "show the health of every endpoint",
        "speedtest": "measure transfers and listings per node, and name the slow one",
        "proxy": "serve the pool as one S3 endpoint",
        "presign": "make a URL that works without credentials for a while",
        "config": "show each setting and its origin, or import those of other tools",
    },
    "many commands, many machines": {
        "run": "run many commands, one a line, in one process",
        "shards": "print a plan of key ranges for --shard and --plan",
        "print": "print a systemd unit, manifest, dashboard or alert rules",
        "completion": "print a completion script for a shell",
    },
}
SUMMARIES = {name: summary for group in GROUPS.values() for name, summary in group.items()}
ALL = tuple(SUMMARIES)
# The commands that are rows of one table, and the modules of those that share one.
SETTINGS = ("tag", "version", "retention", "legalhold", "policy", "anonymous", "ilm", "cors", "encrypt", "restore")
_SHARED = {
    "cat": ("head",),
    "cp": ("mv", "pipe"),
    "diff": ("check",),
    "du": ("tree",),
    "mb": ("rb",),
    "print": ("completion", "shards"),
    "settings": SETTINGS,
    "sync": ("mirror",),
}
MODULES = {name: module for module, names in _SHARED.items() for name in names}
CHANGING = frozenset(
    ("config", "cp", "mv", "sync", "mirror", "rm", "undo", "run", "find", "pipe", "mb", "rb", "speedtest", *SETTINGS)
)
