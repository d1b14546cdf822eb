//! The tables, and the way from each older schema to the newest. `PRAGMA user_version` holds the schema's number.

/// Each step leads from the schema of its index to the next; a new version appends, and never edits.
pub(super) const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE images (
        id           TEXT PRIMARY KEY,
        config       TEXT NOT NULL,
        created_usec INTEGER NOT NULL,
        size_bytes   INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE image_names (
        name         TEXT PRIMARY KEY,
        image_id     TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE image_layers (
        image_id     TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
        position     INTEGER NOT NULL,
        diff_id      TEXT NOT NULL,
        PRIMARY KEY (image_id, position)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE containers (
        id           TEXT PRIMARY KEY,
        name         TEXT NOT NULL UNIQUE,
        image_id     TEXT REFERENCES images (id) ON DELETE RESTRICT,
        created_usec INTEGER NOT NULL,
        definition   TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX containers_by_image ON containers (image_id);
    CREATE INDEX image_layers_by_diff_id ON image_layers (diff_id);
    CREATE INDEX image_names_by_image ON image_names (image_id);
",
    "
    CREATE TABLE networks (
        id           TEXT PRIMARY KEY,
        name         TEXT NOT NULL UNIQUE,
        created_usec INTEGER NOT NULL,
        definition   TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE leases (
        network_id   TEXT NOT NULL REFERENCES networks (id) ON DELETE RESTRICT,
        address      TEXT NOT NULL,
        container_id TEXT NOT NULL,
        PRIMARY KEY (network_id, address)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX leases_by_container ON leases (container_id);
    CREATE TABLE ports (
        protocol     TEXT NOT NULL,
        port         INTEGER NOT NULL,
        host_ip      TEXT NOT NULL,
        container_id TEXT NOT NULL,
        PRIMARY KEY (protocol, port, host_ip)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX ports_by_container ON ports (container_id);
",
    "
    ALTER TABLE images ADD COLUMN manifest TEXT;
    ALTER TABLE images ADD COLUMN manifest_type TEXT;
    CREATE TABLE image_digests (
        repository   TEXT NOT NULL,
        digest       TEXT NOT NULL,
        image_id     TEXT NOT NULL REFERENCES images (id) ON DELETE CASCADE,
        PRIMARY KEY (repository, digest)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX image_digests_by_image ON image_digests (image_id);
    CREATE TABLE layers (
        diff_id       TEXT PRIMARY KEY,
        size_bytes    INTEGER NOT NULL,
        finished_usec INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE layer_blobs (
        diff_id      TEXT NOT NULL REFERENCES layers (diff_id) ON DELETE CASCADE,
        repository   TEXT NOT NULL,
        digest       TEXT NOT NULL,
        media_type   TEXT NOT NULL,
        size_bytes   INTEGER NOT NULL,
        PRIMARY KEY (diff_id, repository, digest)
    ) STRICT, WITHOUT ROWID;
",
    "
    ALTER TABLE containers ADD COLUMN left_running INTEGER NOT NULL DEFAULT 0;
",
    "
    CREATE TABLE build_steps (
        key          TEXT PRIMARY KEY,
        diff_id      TEXT,
        created_usec INTEGER NOT NULL,
        used_usec    INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX build_steps_by_diff_id ON build_steps (diff_id);
",
    "
    CREATE TABLE volumes (
        id           TEXT PRIMARY KEY,
        name         TEXT NOT NULL UNIQUE,
        created_usec INTEGER NOT NULL,
        anonymous    INTEGER NOT NULL,
        fresh        INTEGER NOT NULL,
        definition   TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE volume_users (
        container_id TEXT NOT NULL REFERENCES containers (id) ON DELETE CASCADE,
        volume_id    TEXT NOT NULL REFERENCES volumes (id) ON DELETE RESTRICT,
        PRIMARY KEY (container_id, volume_id)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX volume_users_by_volume ON volume_users (volume_id);
    CREATE TABLE image_users (
        container_id TEXT NOT NULL REFERENCES containers (id) ON DELETE CASCADE,
        image_id     TEXT NOT NULL REFERENCES images (id) ON DELETE RESTRICT,
        PRIMARY KEY (container_id, image_id)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX image_users_by_image ON image_users (image_id);
    CREATE TABLE secrets (
        id           TEXT PRIMARY KEY,
        name         TEXT NOT NULL UNIQUE,
        created_usec INTEGER NOT NULL,
        definition   TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE secret_users (
        container_id TEXT NOT NULL REFERENCES containers (id) ON DELETE CASCADE,
        secret_id    TEXT NOT NULL REFERENCES secrets (id) ON DELETE RESTRICT,
        PRIMARY KEY (container_id, secret_id)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX secret_users_by_secret ON secret_users (secret_id);
",
];

/// The newest schema.
pub(super) fn newest() -> i64 {
    i64::try_from(MIGRATIONS.len()).expect("a handful of migrations")
}
