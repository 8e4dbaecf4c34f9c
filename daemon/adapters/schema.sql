-- The ledger, version 2. Times are seconds since 1970 in UTC; file names are bytes.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

CREATE TABLE folder (
    id    INTEGER PRIMARY KEY,
    inbox BLOB NOT NULL UNIQUE
) STRICT;

-- One content under one recipe: what is paid for.
CREATE TABLE job (
    id           TEXT PRIMARY KEY,
    folder       INTEGER NOT NULL REFERENCES folder (id),
    path         BLOB NOT NULL,
    sha256       TEXT NOT NULL,
    bytes        INTEGER NOT NULL,
    width        INTEGER NOT NULL,
    height       INTEGER NOT NULL,
    format       TEXT NOT NULL,
    model        TEXT NOT NULL,
    scale        REAL NOT NULL,
    face_enhance INTEGER NOT NULL,
    traits       TEXT NOT NULL DEFAULT '{}',
    note         TEXT NOT NULL DEFAULT ''
) STRICT;

-- What travels: `width` x `height` pixels of the upright picture from `left` and `top` on. `rank` is what the folder's
-- order sorts by: an integer, or a name's bytes.
CREATE TABLE tile (
    job               TEXT NOT NULL REFERENCES job (id),
    number            INTEGER NOT NULL,
    folder            INTEGER NOT NULL,
    rank              ANY NOT NULL,
    state             TEXT NOT NULL,
    due_at            REAL NOT NULL,
    since             REAL NOT NULL,
    furthest          INTEGER NOT NULL,
    attempts          INTEGER NOT NULL,
    wrongs            INTEGER NOT NULL,
    submits           INTEGER NOT NULL,
    submits_granted   INTEGER NOT NULL,
    uploads           INTEGER NOT NULL,
    asset_ref         TEXT,
    asset_url         TEXT,
    asset_expires_at  REAL,
    intent_at         REAL,
    absences          INTEGER NOT NULL,
    api               TEXT,
    prediction        TEXT,
    output_url        TEXT,
    result_sha256     TEXT,
    result_bytes      INTEGER,
    result_width      INTEGER,
    result_height     INTEGER,
    released          INTEGER NOT NULL,
    reason            TEXT NOT NULL,
    remedy            TEXT NOT NULL,
    blame             TEXT NOT NULL,
    "left"            INTEGER NOT NULL DEFAULT 0,
    top               INTEGER NOT NULL DEFAULT 0,
    width             INTEGER NOT NULL DEFAULT 0,
    height            INTEGER NOT NULL DEFAULT 0,
    likeness          TEXT NOT NULL DEFAULT '',
    sent_width        INTEGER,
    sent_height       INTEGER,
    PRIMARY KEY (job, number)
) STRICT, WITHOUT ROWID;

CREATE INDEX tile_in_turn ON tile (state, folder, rank);
CREATE INDEX tile_due ON tile (state, due_at);

-- A file that settled. Its result's name is claimed here before anything is written under it.
CREATE TABLE picture (
    id            INTEGER PRIMARY KEY,
    folder        INTEGER NOT NULL REFERENCES folder (id),
    path          BLOB NOT NULL,
    size          INTEGER NOT NULL,
    mtime_ns      INTEGER NOT NULL,
    inode         INTEGER NOT NULL,
    job           TEXT NOT NULL REFERENCES job (id),
    phase         TEXT NOT NULL,
    detected_at   REAL NOT NULL,
    outbox        BLOB,
    result_path   BLOB,
    result_sha256 TEXT,
    result_job    TEXT,
    UNIQUE (folder, path)
) STRICT;

CREATE INDEX picture_job ON picture (job);
CREATE INDEX picture_due ON picture (id) WHERE phase = 'due';
CREATE INDEX picture_result_job ON picture (result_job) WHERE result_job IS NOT NULL;
CREATE UNIQUE INDEX picture_result ON picture (outbox, result_path) WHERE result_path IS NOT NULL;

-- What each prediction cost; keyed by its id, so that nothing is counted twice.
CREATE TABLE bill (
    prediction      TEXT PRIMARY KEY,
    job             TEXT NOT NULL REFERENCES job (id),
    number          INTEGER NOT NULL,
    billed_at       REAL NOT NULL,
    cost_usd        REAL NOT NULL,
    predict_seconds REAL
) STRICT;

CREATE INDEX bill_job ON bill (job);
CREATE INDEX bill_time ON bill (billed_at);

-- Uploaded objects that are still to be deleted.
CREATE TABLE asset (
    ref       TEXT PRIMARY KEY,
    job       TEXT NOT NULL,
    number    INTEGER NOT NULL,
    stored_at REAL NOT NULL
) STRICT;

-- What happened, append-only; sidecars are made from it.
CREATE TABLE history (
    id      INTEGER PRIMARY KEY,
    at      REAL NOT NULL,
    job     TEXT NOT NULL,
    number  INTEGER NOT NULL,
    name    TEXT NOT NULL,
    picture INTEGER,
    detail  TEXT
) STRICT;

CREATE INDEX history_job ON history (job, id);
CREATE INDEX history_submits ON history (at) WHERE name = 'submitting';
