-- A ledger that version 1 made, with a job in every state.
BEGIN TRANSACTION;
CREATE TABLE asset (
    ref       TEXT PRIMARY KEY,
    job       TEXT NOT NULL,
    number    INTEGER NOT NULL,
    stored_at REAL NOT NULL
) STRICT;
INSERT INTO "asset" VALUES('ref-d22f2f74ec08e1322f6b','d22f2f74ec08e1322f6b',0,2000.0);
INSERT INTO "asset" VALUES('ref-b3f29491ee81ca6fc25c','b3f29491ee81ca6fc25c',0,2000.0);
INSERT INTO "asset" VALUES('ref-5d39b59cb691dd7cde62','5d39b59cb691dd7cde62',0,2000.0);
INSERT INTO "asset" VALUES('ref-2aeee0e2d163aff729b7','2aeee0e2d163aff729b7',0,2000.0);
INSERT INTO "asset" VALUES('ref-c1972c8384903e45bfd7','c1972c8384903e45bfd7',0,2000.0);
INSERT INTO "asset" VALUES('ref-7e48391b91a47ef56c13','7e48391b91a47ef56c13',0,2000.0);
INSERT INTO "asset" VALUES('ref-8ab60613345daa6bd3e7','8ab60613345daa6bd3e7',0,2000.0);
CREATE TABLE bill (
    prediction      TEXT PRIMARY KEY,
    job             TEXT NOT NULL REFERENCES job (id),
    number          INTEGER NOT NULL,
    billed_at       REAL NOT NULL,
    cost_usd        REAL NOT NULL,
    predict_seconds REAL
) STRICT;
INSERT INTO "bill" VALUES('prediction-2aeee0e2d163aff729b7','2aeee0e2d163aff729b7',0,2000.0,0.004,16.1);
INSERT INTO "bill" VALUES('prediction-c1972c8384903e45bfd7','c1972c8384903e45bfd7',0,2000.0,0.004,16.1);
INSERT INTO "bill" VALUES('prediction-7e48391b91a47ef56c13','7e48391b91a47ef56c13',0,2000.0,0.004,16.1);
INSERT INTO "bill" VALUES('prediction-8ab60613345daa6bd3e7','8ab60613345daa6bd3e7',0,2000.0,0.004,16.1);
CREATE TABLE folder (
    id    INTEGER PRIMARY KEY,
    inbox BLOB NOT NULL UNIQUE
) STRICT;
INSERT INTO "folder" VALUES(1,X'2F696E2F31');
CREATE TABLE history (
    id      INTEGER PRIMARY KEY,
    at      REAL NOT NULL,
    job     TEXT NOT NULL,
    number  INTEGER NOT NULL,
    name    TEXT NOT NULL,
    picture INTEGER,
    detail  TEXT
) STRICT;
INSERT INTO "history" VALUES(1,2000.0,'27b58e945b0739d8feed',0,'admitted',NULL,NULL);
INSERT INTO "history" VALUES(2,2000.0,'d22f2f74ec08e1322f6b',0,'admitted',NULL,NULL);
INSERT INTO "history" VALUES(3,2000.0,'d22f2f74ec08e1322f6b',0,'uploaded',NULL,NULL);
INSERT INTO "history" VALUES(4,2000.0,'b3f29491ee81ca6fc25c',0,'admitted',NULL,NULL);
INSERT INTO "history" VALUES(5,2000.0,'b3f29491ee81ca6fc25c',0,'uploaded',NULL,NULL);
INSERT INTO "history" VALUES(6,2000.0,'b3f29491ee81ca6fc25c',0,'submitting',NULL,NULL);
INSERT INTO "history" VALUES(7,2000.0,'5d39b59cb691dd7cde62',0,'admitted',NULL,NULL);
INSERT INTO "history" VALUES(8,2000.0,'5d39b59cb691dd7cde62',0,'uploaded',NULL,NULL);
INSERT INTO "history" VALUES(9,2000.0,'5d39b59cb691dd7cde62',0,'submitting',NULL,NULL);
INSERT INTO "history" VALUES(10,2000.0,'5d39b59cb691dd7cde62',0,'submitted',NULL,'{"prediction": "prediction-5d39b59cb691dd7cde62"}');
INSERT INTO "history" VALUES(11,2000.0,'2aeee0e2d163aff729b7',0,'admitted',NULL,NULL);
INSERT INTO "history" VALUES(12,2000.0,'2aeee0e2d163aff729b7',0,'uploaded',NULL,NULL);
INSERT INTO "history" VALUES(13,2000.0,'2aeee0e2d163aff729b7',0,'submitting',NULL,NULL);
INSERT INTO "history" VALUES(14,2000.0,'2aeee0e2d163aff729b7',0,'submitted',NULL,'{"prediction": "prediction-2aeee0e2d163aff729b7"}');
INSERT INTO "history" VALUES(15,2000.0,'2aeee0e2d163aff729b7',0,'ready',NULL,'{"cost_usd": 0.004}');
INSERT INTO "history" VALUES(16,2000.0,'c1972c8384903e45bfd7',0,'admitted',NULL,NULL);
INSERT INTO "history" VALUES(17,2000.0,'c1972c8384903e45bfd7',0,'uploaded',NULL,NULL);
INSERT INTO "history" VALUES(18,2000.0,'c1972c8384903e45bfd7',0,'submitting',NULL,NULL);
INSERT INTO "history" VALUES(19,2000.0,'c1972c8384903e45bfd7',0,'submitted',NULL,'{"prediction": "prediction-c1972c8384903e45bfd7"}');
INSERT INTO "history" VALUES(20,2000.0,'c1972c8384903e45bfd7',0,'ready',NULL,'{"cost_usd": 0.004}');
INSERT INTO "history" VALUES(21,2000.0,'c1972c8384903e45bfd7',0,'fetched',NULL,'{"result_sha256": "5877c33deef994a20173a524dcd686e41dc0b567c7765ad8a3f8e5153e809d33", "result_bytes": 20, "result_width": 6, "result_height": 4}');
INSERT INTO "history" VALUES(22,2000.0,'7e48391b91a47ef56c13',0,'admitted',NULL,NULL);
INSERT INTO "history" VALUES(23,2000.0,'7e48391b91a47ef56c13',0,'uploaded',NULL,NULL);
INSERT INTO "history" VALUES(24,2000.0,'7e48391b91a47ef56c13',0,'submitting',NULL,NULL);
INSERT INTO "history" VALUES(25,2000.0,'7e48391b91a47ef56c13',0,'submitted',NULL,'{"prediction": "prediction-7e48391b91a47ef56c13"}');
INSERT INTO "history" VALUES(26,2000.0,'7e48391b91a47ef56c13',0,'ready',NULL,'{"cost_usd": 0.004}');
INSERT INTO "history" VALUES(27,2000.0,'7e48391b91a47ef56c13',0,'fetched',NULL,'{"result_sha256": "c9a88076491793753f450a78a7838fbcadd381f043342d913751a4559c3c4969", "result_bytes": 17, "result_width": 6, "result_height": 4}');
INSERT INTO "history" VALUES(28,2000.0,'7e48391b91a47ef56c13',0,'delivered',7,'{"reused": false, "bytes": 17}');
INSERT INTO "history" VALUES(29,2000.0,'7e48391b91a47ef56c13',0,'done',NULL,NULL);
INSERT INTO "history" VALUES(30,2000.0,'8ab60613345daa6bd3e7',0,'admitted',NULL,NULL);
INSERT INTO "history" VALUES(31,2000.0,'8ab60613345daa6bd3e7',0,'uploaded',NULL,NULL);
INSERT INTO "history" VALUES(32,2000.0,'8ab60613345daa6bd3e7',0,'submitting',NULL,NULL);
INSERT INTO "history" VALUES(33,2000.0,'8ab60613345daa6bd3e7',0,'submitted',NULL,'{"prediction": "prediction-8ab60613345daa6bd3e7"}');
INSERT INTO "history" VALUES(34,2000.0,'8ab60613345daa6bd3e7',0,'failed',NULL,'{"reason": "It is broken.", "remedy": "Mend it.", "blame": "picture", "cost_usd": 0.004}');
INSERT INTO "history" VALUES(35,2000.0,'969300c723c243afc0eb',0,'admitted',NULL,NULL);
INSERT INTO "history" VALUES(36,2000.0,'969300c723c243afc0eb',0,'held',NULL,'{"reason": "Too many.", "remedy": "Release."}');
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
    face_enhance INTEGER NOT NULL
) STRICT;
INSERT INTO "job" VALUES('27b58e945b0739d8feed',1,X'61646D69747465642E706E67','e9fc1d397486adb96265b7e2f382b05bfacb9787f6e23b6ca40542c8c5c8a390',12,3,2,'PNG','real-esrgan',2.0,0);
INSERT INTO "job" VALUES('d22f2f74ec08e1322f6b',1,X'75706C6F616465642E706E67','52a8507bd365df73b82a7c82913ed6fc9d1bfc13f34ae7080bb24381dbee4787',12,3,2,'PNG','real-esrgan',2.0,0);
INSERT INTO "job" VALUES('b3f29491ee81ca6fc25c',1,X'7375626D697474696E672E706E67','54c0737872173e25c58b142e7d6aacde8431e9a3f62caacec97946aa0d1547bf',14,3,2,'PNG','real-esrgan',2.0,0);
INSERT INTO "job" VALUES('5d39b59cb691dd7cde62',1,X'7375626D69747465642E706E67','1d30451d24d82ad74f7d2226068982b43b7e6ff572c6687b47b81ee5df2b411b',13,3,2,'PNG','real-esrgan',2.0,0);
INSERT INTO "job" VALUES('2aeee0e2d163aff729b7',1,X'72656164792E706E67','faf4b42b42373eb225d368ae4d107ee0a3d1e40f0a1f59ba56997be861b9628e',9,3,2,'PNG','real-esrgan',2.0,0);
INSERT INTO "job" VALUES('c1972c8384903e45bfd7',1,X'666574636865642E706E67','2f2d92eeedaccb7766e966cd3319ba668b707cfc43bee4eb8804c1b3d20200e7',11,3,2,'PNG','real-esrgan',2.0,0);
INSERT INTO "job" VALUES('7e48391b91a47ef56c13',1,X'646F6E652E706E67','de16942106cefed51722e4312b10b2792c9ad520ff9b1918f87c5cb4c5704657',8,3,2,'PNG','real-esrgan',2.0,0);
INSERT INTO "job" VALUES('8ab60613345daa6bd3e7',1,X'6661696C65642E706E67','6cfb86855d776b9ed9a4d8515bfbbd1e81bba4f5568fbc5a32ff259d71ec4e15',10,3,2,'PNG','real-esrgan',2.0,0);
INSERT INTO "job" VALUES('969300c723c243afc0eb',1,X'68656C642E706E67','583a1421cc54b4b062e262c2e5298f149861f2cbd6c49a827d89b9d752969b4a',8,3,2,'PNG','real-esrgan',2.0,0);
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;
INSERT INTO "meta" VALUES('identity','00000000000000000000000000000001');
INSERT INTO "meta" VALUES('order/1','oldest');
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
INSERT INTO "picture" VALUES(1,1,X'61646D69747465642E706E67',12,1000000000,1,'27b58e945b0739d8feed','waiting',1000.0,NULL,NULL,NULL,NULL);
INSERT INTO "picture" VALUES(2,1,X'75706C6F616465642E706E67',12,2000000000,2,'d22f2f74ec08e1322f6b','waiting',1000.0,NULL,NULL,NULL,NULL);
INSERT INTO "picture" VALUES(3,1,X'7375626D697474696E672E706E67',14,3000000000,3,'b3f29491ee81ca6fc25c','waiting',1000.0,NULL,NULL,NULL,NULL);
INSERT INTO "picture" VALUES(4,1,X'7375626D69747465642E706E67',13,4000000000,4,'5d39b59cb691dd7cde62','waiting',1000.0,NULL,NULL,NULL,NULL);
INSERT INTO "picture" VALUES(5,1,X'72656164792E706E67',9,5000000000,5,'2aeee0e2d163aff729b7','waiting',1000.0,NULL,NULL,NULL,NULL);
INSERT INTO "picture" VALUES(6,1,X'666574636865642E706E67',11,6000000000,6,'c1972c8384903e45bfd7','due',1000.0,NULL,NULL,NULL,NULL);
INSERT INTO "picture" VALUES(7,1,X'646F6E652E706E67',8,7000000000,7,'7e48391b91a47ef56c13','delivered',1000.0,X'2F6F7574',X'646F6E655F78322E706E67','c9a88076491793753f450a78a7838fbcadd381f043342d913751a4559c3c4969','7e48391b91a47ef56c13');
INSERT INTO "picture" VALUES(8,1,X'6661696C65642E706E67',10,8000000000,8,'8ab60613345daa6bd3e7','due',1000.0,NULL,NULL,NULL,NULL);
INSERT INTO "picture" VALUES(9,1,X'68656C642E706E67',8,9000000000,9,'969300c723c243afc0eb','waiting',1000.0,NULL,NULL,NULL,NULL);
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
    PRIMARY KEY (job, number)
) STRICT, WITHOUT ROWID;
INSERT INTO "tile" VALUES('27b58e945b0739d8feed',0,1,1000000000,'admitted',2000.0,2000.0,0,0,0,0,0,0,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,'','','');
INSERT INTO "tile" VALUES('2aeee0e2d163aff729b7',0,1,5000000000,'ready',2000.0,2000.0,4,0,0,1,0,1,'ref-2aeee0e2d163aff729b7','https://storage.test/2aeee0e2d163aff729b7?s=secret',NULL,2000.0,0,'a fake','prediction-2aeee0e2d163aff729b7','https://result.test/x.png',NULL,NULL,NULL,NULL,0,'','','');
INSERT INTO "tile" VALUES('5d39b59cb691dd7cde62',0,1,4000000000,'submitted',2000.0,2000.0,3,0,0,1,0,1,'ref-5d39b59cb691dd7cde62','https://storage.test/5d39b59cb691dd7cde62?s=secret',NULL,2000.0,0,'a fake','prediction-5d39b59cb691dd7cde62',NULL,NULL,NULL,NULL,NULL,0,'','','');
INSERT INTO "tile" VALUES('7e48391b91a47ef56c13',0,1,7000000000,'done',2000.0,2000.0,6,0,0,1,0,1,'ref-7e48391b91a47ef56c13','https://storage.test/7e48391b91a47ef56c13?s=secret',NULL,2000.0,0,'a fake','prediction-7e48391b91a47ef56c13','https://result.test/x.png','c9a88076491793753f450a78a7838fbcadd381f043342d913751a4559c3c4969',17,6,4,0,'','','');
INSERT INTO "tile" VALUES('8ab60613345daa6bd3e7',0,1,8000000000,'failed',1.0e+15,2000.0,3,0,0,1,0,1,'ref-8ab60613345daa6bd3e7','https://storage.test/8ab60613345daa6bd3e7?s=secret',NULL,2000.0,0,'a fake','prediction-8ab60613345daa6bd3e7',NULL,NULL,NULL,NULL,NULL,0,'It is broken.','Mend it.','picture');
INSERT INTO "tile" VALUES('969300c723c243afc0eb',0,1,9000000000,'held',1.0e+15,2000.0,0,0,0,0,0,0,NULL,NULL,NULL,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,'Too many.','Release.','');
INSERT INTO "tile" VALUES('b3f29491ee81ca6fc25c',0,1,3000000000,'submitting',2000.0,2000.0,2,0,0,1,0,1,'ref-b3f29491ee81ca6fc25c','https://storage.test/b3f29491ee81ca6fc25c?s=secret',NULL,2000.0,0,'a fake',NULL,NULL,NULL,NULL,NULL,NULL,0,'','','');
INSERT INTO "tile" VALUES('c1972c8384903e45bfd7',0,1,6000000000,'fetched',2000.0,2000.0,5,0,0,1,0,1,'ref-c1972c8384903e45bfd7','https://storage.test/c1972c8384903e45bfd7?s=secret',NULL,2000.0,0,'a fake','prediction-c1972c8384903e45bfd7','https://result.test/x.png','5877c33deef994a20173a524dcd686e41dc0b567c7765ad8a3f8e5153e809d33',20,6,4,0,'','','');
INSERT INTO "tile" VALUES('d22f2f74ec08e1322f6b',0,1,2000000000,'uploaded',2000.0,2000.0,1,0,0,0,0,1,'ref-d22f2f74ec08e1322f6b','https://storage.test/d22f2f74ec08e1322f6b?s=secret',NULL,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,NULL,0,'','','');
CREATE INDEX tile_in_turn ON tile (state, folder, rank);
CREATE INDEX tile_due ON tile (state, due_at);
CREATE INDEX picture_job ON picture (job);
CREATE INDEX picture_due ON picture (id) WHERE phase = 'due';
CREATE INDEX picture_result_job ON picture (result_job) WHERE result_job IS NOT NULL;
CREATE UNIQUE INDEX picture_result ON picture (outbox, result_path) WHERE result_path IS NOT NULL;
CREATE INDEX bill_job ON bill (job);
CREATE INDEX bill_time ON bill (billed_at);
CREATE INDEX history_job ON history (job, id);
CREATE INDEX history_submits ON history (at) WHERE name = 'submitting';
COMMIT;
PRAGMA user_version = 1;
