-- A database of revision 0003 in which every table has rows, as `sqlite3 .dump` writes it.
-- Written by the functions of commit e7120e2 (the last before the packages were reordered) from the synthetic
-- instances of its tests/testbed/instances.py; no line is written by hand. The audit trail that belongs to it is
-- revision_0003.audit. Never regenerate it: it stands for what earlier workers left behind.
BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0003');
CREATE TABLE association (
	id INTEGER NOT NULL, 
	calling_ae_title VARCHAR(16) NOT NULL, 
	peer VARCHAR(64) NOT NULL, 
	receiver VARCHAR(128) NOT NULL, 
	opened_at DATETIME NOT NULL, 
	closed_at DATETIME, 
	CONSTRAINT pk_association PRIMARY KEY (id)
);
INSERT INTO "association" VALUES(1,'SCANNER','10.0.0.7','earlier-host:5','2026-03-01 12:00:10.000000','2026-03-01 12:00:12.000000');
INSERT INTO "association" VALUES(2,'SCANNER','10.0.0.7','earlier-host:5','2026-03-01 12:03:20.000000',NULL);
CREATE TABLE audit_chain (
	host VARCHAR(128) NOT NULL, 
	records INTEGER NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	anchored_at DATETIME NOT NULL, 
	fault VARCHAR(64), 
	CONSTRAINT pk_audit_chain PRIMARY KEY (host)
);
INSERT INTO "audit_chain" VALUES('earlier-host',3,'89e9ca6012e148a58f67c8df5bf7023086785227564e68dcfcf4b64c0e148248','2026-03-01 12:00:03.000000',NULL);
CREATE TABLE "conflict" (
	id INTEGER NOT NULL, 
	instance_id INTEGER NOT NULL, 
	association_id INTEGER, 
	path VARCHAR(255) NOT NULL, 
	size INTEGER NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	received_at DATETIME NOT NULL, 
	CONSTRAINT pk_conflict PRIMARY KEY (id), 
	CONSTRAINT fk_conflict_association_id_association FOREIGN KEY(association_id) REFERENCES association (id), 
	CONSTRAINT fk_conflict_instance_id_instance FOREIGN KEY(instance_id) REFERENCES instance (id), 
	CONSTRAINT uq_conflict_instance_id_sha256 UNIQUE (instance_id, sha256)
);
INSERT INTO "conflict" VALUES(1,1,NULL,'conflicts/a-1.dcm',1,'1111111111111111111111111111111111111111111111111111111111111111','2026-03-01 12:00:12.000000');
CREATE TABLE delivery (
	id INTEGER NOT NULL, 
	object_id INTEGER NOT NULL, 
	destination VARCHAR(64) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	attempts INTEGER NOT NULL, 
	rejections INTEGER NOT NULL, 
	not_before DATETIME NOT NULL, 
	lease_owner VARCHAR(128), 
	lease_until DATETIME, 
	status INTEGER, 
	reason VARCHAR(64), 
	detail VARCHAR(1024), 
	delivered_at DATETIME, 
	sent_as VARCHAR(64), 
	commitment VARCHAR(16), 
	transaction_uid VARCHAR(64), 
	ask_again_at DATETIME, 
	CONSTRAINT pk_delivery PRIMARY KEY (id), 
	CONSTRAINT ck_delivery_commitment CHECK (commitment IN ('due', 'requested', 'confirmed')), 
	CONSTRAINT ck_delivery_lease CHECK ((state = 'sending') = (lease_owner IS NOT NULL)), 
	CONSTRAINT ck_delivery_state CHECK (state IN ('pending', 'sending', 'delivered', 'failed')), 
	CONSTRAINT fk_delivery_object_id_object FOREIGN KEY(object_id) REFERENCES object (id), 
	CONSTRAINT uq_delivery_object_id_destination UNIQUE (object_id, destination)
);
INSERT INTO "delivery" VALUES(1,1,'pacs','delivered',1,0,'2026-03-01 12:00:33.000000',NULL,NULL,0,NULL,NULL,'2026-03-01 12:00:37.000000','2.25.200247645538638260931218794907509467925','confirmed','2.25.42',NULL);
INSERT INTO "delivery" VALUES(2,1,'research','pending',1,0,'2026-03-01 12:05:00.000000',NULL,NULL,NULL,'peer-unavailable','no association with 10.0.0.9:104',NULL,NULL,NULL,NULL,NULL);
INSERT INTO "delivery" VALUES(3,2,'pacs','delivered',1,0,'2026-03-01 12:00:33.000000',NULL,NULL,0,NULL,NULL,'2026-03-01 12:00:37.000000','2.25.234495239921132240285769154956896413164','requested','2.25.42','2026-03-01 12:10:00.000000');
INSERT INTO "delivery" VALUES(4,2,'research','pending',1,0,'2026-03-01 12:05:00.000000',NULL,NULL,NULL,'peer-unavailable','no association with 10.0.0.9:104',NULL,NULL,NULL,NULL,NULL);
INSERT INTO "delivery" VALUES(5,3,'pacs','delivered',1,0,'2026-03-01 12:00:33.000000',NULL,NULL,0,NULL,NULL,'2026-03-01 12:00:37.000000','2.25.48670502714153536597528283767877713523','requested','2.25.42','2026-03-01 12:10:00.000000');
CREATE TABLE instance (
	id INTEGER NOT NULL, 
	series_id INTEGER NOT NULL, 
	association_id INTEGER, 
	sop_instance_uid VARCHAR(64) NOT NULL, 
	sop_class_uid VARCHAR(64) NOT NULL, 
	transfer_syntax_uid VARCHAR(64) NOT NULL, 
	attributes JSON NOT NULL, 
	path VARCHAR(255) NOT NULL, 
	size INTEGER NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	received_at DATETIME NOT NULL, 
	removed_at DATETIME, 
	CONSTRAINT pk_instance PRIMARY KEY (id), 
	CONSTRAINT fk_instance_association_id_association FOREIGN KEY(association_id) REFERENCES association (id), 
	CONSTRAINT fk_instance_series_id_series FOREIGN KEY(series_id) REFERENCES series (id), 
	CONSTRAINT uq_instance_sop_instance_uid UNIQUE (sop_instance_uid)
);
INSERT INTO "instance" VALUES(1,1,1,'2.25.315787945283475637025932516406482925146','1.2.840.10008.5.1.4.1.1.4','1.2.840.10008.1.2.1','{"modality": "MR", "image_type": [], "scanning_sequence": [], "body_part": "", "frames": 1}','instances/a/1.dcm',1,'0000000000000000000000000000000000000000000000000000000000000000','2026-03-01 12:00:10.000000',NULL);
INSERT INTO "instance" VALUES(2,1,1,'2.25.114237317738177273786823373878640783826','1.2.840.10008.5.1.4.1.1.4','1.2.840.10008.1.2.1','{"modality": "MR", "image_type": [], "scanning_sequence": [], "body_part": "", "frames": 1}','instances/a/2.dcm',1,'0000000000000000000000000000000000000000000000000000000000000000','2026-03-01 12:00:10.000000',NULL);
INSERT INTO "instance" VALUES(3,1,1,'2.25.76636236026477800357384108967425329253','1.2.840.10008.5.1.4.1.1.4','1.2.840.10008.1.2.1','{"modality": "MR", "image_type": [], "scanning_sequence": [], "body_part": "", "frames": 1}','instances/a/3.dcm',1,'0000000000000000000000000000000000000000000000000000000000000000','2026-03-01 12:00:10.000000',NULL);
INSERT INTO "instance" VALUES(4,2,NULL,'2.25.267534312103031326315358483501846884418','1.2.840.10008.5.1.4.1.1.4','1.2.840.10008.1.2.1','{"modality": "MR", "image_type": [], "scanning_sequence": [], "body_part": "", "frames": 1}','instances/b/1.dcm',1,'0000000000000000000000000000000000000000000000000000000000000000','2026-03-01 12:01:10.000000',NULL);
INSERT INTO "instance" VALUES(5,3,NULL,'2.25.268027117502352562222502407395352216183','1.2.840.10008.5.1.4.1.1.4','1.2.840.10008.1.2.1','{"modality": "MR", "image_type": [], "scanning_sequence": [], "body_part": "", "frames": 1}','instances/c/1.dcm',1,'0000000000000000000000000000000000000000000000000000000000000000','2026-03-01 12:01:20.000000',NULL);
INSERT INTO "instance" VALUES(6,4,NULL,'2.25.146351518505562962821886949554881842282','1.2.840.10008.5.1.4.1.1.4','1.2.840.10008.1.2.1','{"modality": "MR", "image_type": [], "scanning_sequence": [], "body_part": "", "frames": 1}','instances/d/1.dcm',1,'0000000000000000000000000000000000000000000000000000000000000000','2026-03-01 12:01:30.000000',NULL);
INSERT INTO "instance" VALUES(7,5,2,'2.25.311934716210495272249846152294669569002','1.2.840.10008.5.1.4.1.1.4','1.2.840.10008.1.2.1','{"modality": "MR", "image_type": [], "scanning_sequence": [], "body_part": "", "frames": 1}','instances/e/1.dcm',1,'0000000000000000000000000000000000000000000000000000000000000000','2026-03-01 12:03:20.000000',NULL);
INSERT INTO "instance" VALUES(8,5,2,'2.25.5461452695378257490007113003483832420','1.2.840.10008.5.1.4.1.1.4','1.2.840.10008.1.2.1','{"modality": "MR", "image_type": [], "scanning_sequence": [], "body_part": "", "frames": 1}','instances/e/2.dcm',1,'0000000000000000000000000000000000000000000000000000000000000000','2026-03-01 12:03:20.000000',NULL);
CREATE TABLE job (
	id INTEGER NOT NULL, 
	series_id INTEGER NOT NULL, 
	model_id INTEGER NOT NULL, 
	input_sha256 VARCHAR(64) NOT NULL, 
	last_instance_id INTEGER NOT NULL, 
	missing VARCHAR(1024), 
	state VARCHAR(16) NOT NULL, 
	attempts INTEGER NOT NULL, 
	not_before DATETIME NOT NULL, 
	lease_owner VARCHAR(128), 
	lease_until DATETIME, 
	reason VARCHAR(64), 
	detail VARCHAR(1024), 
	created_at DATETIME NOT NULL, 
	finished_at DATETIME, shadow BOOLEAN DEFAULT 0 NOT NULL, 
	CONSTRAINT pk_job PRIMARY KEY (id), 
	CONSTRAINT ck_job_lease CHECK ((state = 'running') = (lease_owner IS NOT NULL)), 
	CONSTRAINT ck_job_state CHECK (state IN ('pending', 'running', 'done', 'parked', 'superseded')), 
	CONSTRAINT fk_job_model_id_model FOREIGN KEY(model_id) REFERENCES model (id), 
	CONSTRAINT fk_job_series_id_series FOREIGN KEY(series_id) REFERENCES series (id), 
	CONSTRAINT uq_job_series_id_model_id_input_sha256 UNIQUE (series_id, model_id, input_sha256)
);
INSERT INTO "job" VALUES(1,1,2,'7713d10da132ce84fbeb1d47d7a18e8f8fafa8124857d3e288d371d267be66e1',3,'1 of 4 images','done',1,'2026-03-01 12:00:30.000000',NULL,NULL,NULL,NULL,'2026-03-01 12:00:30.000000','2026-03-01 12:00:33.000000',0);
INSERT INTO "job" VALUES(2,1,3,'7713d10da132ce84fbeb1d47d7a18e8f8fafa8124857d3e288d371d267be66e1',3,NULL,'done',1,'2026-03-01 12:00:30.000000',NULL,NULL,NULL,NULL,'2026-03-01 12:00:30.000000','2026-03-01 12:00:35.000000',1);
INSERT INTO "job" VALUES(3,2,2,'c9a6ced3bc357a55abcf7d61146311c42238c640253fd2b9c11864d665d81533',4,NULL,'done',1,'2026-03-01 12:01:11.000000',NULL,NULL,NULL,NULL,'2026-03-01 12:01:11.000000','2026-03-01 12:01:13.000000',0);
INSERT INTO "job" VALUES(4,4,2,'8ec0c9ba345e9fa66b65554dd994e5e466e54b1da0560c687fe01a42740cecf3',6,NULL,'parked',1,'2026-03-01 12:01:31.000000',NULL,NULL,'process-died','the inference process was ended by SIGSEGV','2026-03-01 12:01:31.000000','2026-03-01 12:01:33.000000',0);
CREATE TABLE "model" (
	id INTEGER NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	version VARCHAR(32) NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	added_at DATETIME NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	state_at DATETIME NOT NULL, 
	state_by VARCHAR(64) NOT NULL, 
	CONSTRAINT pk_model PRIMARY KEY (id), 
	CONSTRAINT uq_model_sha256 UNIQUE (sha256), 
	CONSTRAINT ck_model_state CHECK (state IN ('added', 'shadow', 'active', 'retired', 'removed'))
);
INSERT INTO "model" VALUES(1,'test-model','1.0','abababababababababababababababababababababababababababababababab','2026-03-01 12:00:00.000000','retired','2026-03-01 12:00:04.000000','ada');
INSERT INTO "model" VALUES(2,'test-model','2.0','cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd','2026-03-01 12:00:01.000000','active','2026-03-01 12:00:04.000000','ada');
INSERT INTO "model" VALUES(3,'test-model','3.0','efefefefefefefefefefefefefefefefefefefefefefefefefefefefefefefef','2026-03-01 12:00:05.000000','shadow','2026-03-01 12:00:06.000000','bo');
CREATE TABLE model_choice (
	id INTEGER NOT NULL, 
	made_at DATETIME NOT NULL, 
	made_by VARCHAR(64) NOT NULL, 
	"before" JSON NOT NULL, 
	undone_at DATETIME, 
	CONSTRAINT pk_model_choice PRIMARY KEY (id)
);
INSERT INTO "model_choice" VALUES(1,'2026-03-01 12:00:00.000000','configuration','{"1": "added"}',NULL);
INSERT INTO "model_choice" VALUES(2,'2026-03-01 12:00:02.000000','ada','{"2": "added", "1": "active"}','2026-03-01 12:00:03.000000');
INSERT INTO "model_choice" VALUES(3,'2026-03-01 12:00:04.000000','ada','{"2": "added", "1": "active"}',NULL);
CREATE TABLE model_load (
	model_id INTEGER NOT NULL, 
	host VARCHAR(128) NOT NULL, 
	process VARCHAR(128) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	detail VARCHAR(1024), 
	deaths INTEGER NOT NULL, 
	at DATETIME NOT NULL, 
	CONSTRAINT pk_model_load PRIMARY KEY (model_id, host), 
	CONSTRAINT ck_model_load_state CHECK (state IN ('loading', 'loaded', 'failed')), 
	CONSTRAINT fk_model_load_model_id_model FOREIGN KEY(model_id) REFERENCES model (id)
);
INSERT INTO "model_load" VALUES(2,'earlier-host','earlier-host:7','loaded',NULL,0,'2026-03-01 12:00:07.000000');
INSERT INTO "model_load" VALUES(3,'earlier-host','earlier-host:7','failed','golden case ''x'' differs',0,'2026-03-01 12:00:07.000000');
CREATE TABLE "object" (
	id INTEGER NOT NULL, 
	result_id INTEGER NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	sop_class_uid VARCHAR(64) NOT NULL, 
	sop_instance_uid VARCHAR(64) NOT NULL, 
	path VARCHAR(255) NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	series_instance_uid VARCHAR(64) NOT NULL, 
	CONSTRAINT pk_object PRIMARY KEY (id), 
	CONSTRAINT uq_object_result_id_kind UNIQUE (result_id, kind), 
	CONSTRAINT fk_object_result_id_result FOREIGN KEY(result_id) REFERENCES result (id), 
	CONSTRAINT ck_object_kind CHECK (kind IN ('report', 'picture', 'key-objects')), 
	CONSTRAINT uq_object_sop_instance_uid UNIQUE (sop_instance_uid)
);
INSERT INTO "object" VALUES(1,1,'report','1.2.840.10008.5.1.4.1.1.88.34','2.25.200247645538638260931218794907509467925','objects/report.dcm','2222222222222222222222222222222222222222222222222222222222222222','2.25.112123558984255894560859692147051025534');
INSERT INTO "object" VALUES(2,1,'picture','1.2.840.10008.5.1.4.1.1.7','2.25.234495239921132240285769154956896413164','objects/picture.dcm','2222222222222222222222222222222222222222222222222222222222222222','2.25.277992660755195137586833729302245194964');
INSERT INTO "object" VALUES(3,1,'key-objects','1.2.840.10008.5.1.4.1.1.88.59','2.25.48670502714153536597528283767877713523','objects/key-objects.dcm','2222222222222222222222222222222222222222222222222222222222222222','2.25.66666071956519888505169539381018191488');
CREATE TABLE process (
	id INTEGER NOT NULL, 
	name VARCHAR(128) NOT NULL, 
	host VARCHAR(128) NOT NULL, 
	pid INTEGER NOT NULL, 
	role VARCHAR(16) NOT NULL, 
	version VARCHAR(32) NOT NULL, 
	started_at DATETIME NOT NULL, 
	seen_at DATETIME NOT NULL, 
	CONSTRAINT pk_process PRIMARY KEY (id), 
	CONSTRAINT uq_process_name UNIQUE (name)
);
INSERT INTO "process" VALUES(1,'earlier-host:5','earlier-host',5,'receive','0.1.0','2026-03-01 12:00:00.000000','2026-03-01 12:03:30.000000');
CREATE TABLE reading (
	id INTEGER NOT NULL, 
	series_id INTEGER NOT NULL, 
	number INTEGER NOT NULL, 
	result_id INTEGER, 
	label VARCHAR(64) NOT NULL, 
	slices JSON NOT NULL, 
	comment VARCHAR(1024) NOT NULL, 
	reader VARCHAR(64) NOT NULL, 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_reading PRIMARY KEY (id), 
	CONSTRAINT fk_reading_series_id_series FOREIGN KEY(series_id) REFERENCES series (id), 
	CONSTRAINT fk_reading_result_id_result FOREIGN KEY(result_id) REFERENCES result (id), 
	CONSTRAINT uq_reading_series_id_number UNIQUE (series_id, number)
);
INSERT INTO "reading" VALUES(1,1,1,1,'notumor','[]','first look','ada','2026-03-01 12:00:50.000000');
INSERT INTO "reading" VALUES(2,1,2,1,'glioma','[1]','second look','bo','2026-03-01 12:01:00.000000');
CREATE TABLE refusal (
	kind VARCHAR(16) NOT NULL, 
	status VARCHAR(8) NOT NULL, 
	reason VARCHAR(64) NOT NULL, 
	number INTEGER NOT NULL, 
	CONSTRAINT pk_refusal PRIMARY KEY (kind, status, reason), 
	CONSTRAINT ck_refusal_kind CHECK (kind IN ('instance', 'association'))
);
INSERT INTO "refusal" VALUES('association','','network',1);
INSERT INTO "refusal" VALUES('instance','0xA700','no-space',3);
CREATE TABLE result (
	id INTEGER NOT NULL, 
	job_id INTEGER NOT NULL, 
	series_id INTEGER NOT NULL, 
	model_id INTEGER NOT NULL, 
	status VARCHAR(16) NOT NULL, 
	label VARCHAR(64), 
	probability DOUBLE, 
	probabilities JSON NOT NULL, 
	reason VARCHAR(64), 
	detail VARCHAR(1024), 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_result PRIMARY KEY (id), 
	CONSTRAINT ck_result_reason CHECK ((status = 'classified') = (reason IS NULL)), 
	CONSTRAINT ck_result_status CHECK (status IN ('classified', 'not-assessed')), 
	CONSTRAINT ck_result_probability CHECK (probability IS NULL OR probability BETWEEN 0 AND 1), 
	CONSTRAINT fk_result_job_id_job FOREIGN KEY(job_id) REFERENCES job (id), 
	CONSTRAINT fk_result_model_id_model FOREIGN KEY(model_id) REFERENCES model (id), 
	CONSTRAINT fk_result_series_id_series FOREIGN KEY(series_id) REFERENCES series (id), 
	CONSTRAINT uq_result_job_id UNIQUE (job_id)
);
INSERT INTO "result" VALUES(1,1,1,2,'classified','glioma',0.9,'{"glioma": 0.9, "notumor": 0.09999999999999998}',NULL,NULL,'2026-03-01 12:00:33.000000');
INSERT INTO "result" VALUES(2,3,2,2,'not-assessed',NULL,NULL,'{}','out-of-distribution','0 of 1 slices resemble the training data','2026-03-01 12:01:13.000000');
CREATE TABLE series (
	id INTEGER NOT NULL, 
	series_instance_uid VARCHAR(64) NOT NULL, 
	study_instance_uid VARCHAR(64) NOT NULL, 
	patient_id VARCHAR(64) NOT NULL, 
	patient_name VARCHAR(324) NOT NULL, 
	accession_number VARCHAR(16) NOT NULL, 
	study_date VARCHAR(8) NOT NULL, 
	modality VARCHAR(16) NOT NULL, 
	series_description VARCHAR(64) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	reason VARCHAR(64), 
	detail VARCHAR(1024), 
	created_at DATETIME NOT NULL, 
	last_received_at DATETIME NOT NULL, 
	settled_at DATETIME, 
	expected_instances INTEGER, 
	counted_at DATETIME, 
	status VARCHAR(16) NOT NULL, 
	label VARCHAR(64), 
	probability DOUBLE, 
	answered_job_id INTEGER, 
	CONSTRAINT pk_series PRIMARY KEY (id), 
	CONSTRAINT ck_series_state CHECK (state IN ('open', 'queued', 'refused')), 
	CONSTRAINT ck_series_status CHECK (status IN ('classified', 'not-assessed', 'refused', 'failed', 'pending')), 
	CONSTRAINT uq_series_series_instance_uid UNIQUE (series_instance_uid)
);
INSERT INTO "series" VALUES(1,'2.25.54122259193506412506495548676258928470','2.25.155831275836547677953055908245404915210','ID-a','Family^a','ACC-a','20260301','MR','t1','queued',NULL,NULL,'2026-03-01 12:00:10.000000','2026-03-01 12:00:10.000000','2026-03-01 12:00:30.000000',NULL,NULL,'classified','glioma',0.9,1);
INSERT INTO "series" VALUES(2,'2.25.327318053049121030616834750628091273841','2.25.238457761112185756613212407702207701133','ID-b','Family^b','ACC-b','20260301','MR','t1','queued',NULL,NULL,'2026-03-01 12:01:10.000000','2026-03-01 12:01:10.000000','2026-03-01 12:01:11.000000',NULL,NULL,'not-assessed',NULL,NULL,3);
INSERT INTO "series" VALUES(3,'2.25.143958433873982443851023283729096198502','2.25.30380363901460914847170962063978001328','ID-c','Family^c','ACC-c','20260301','CT','t1','refused','modality','modality CT is not one of MR','2026-03-01 12:01:20.000000','2026-03-01 12:01:20.000000','2026-03-01 12:01:21.000000',NULL,NULL,'refused',NULL,NULL,NULL);
INSERT INTO "series" VALUES(4,'2.25.199188374411871112937394428558772713970','2.25.200134615254092030417975351814093659125','ID-d','Family^d','ACC-d','20260301','MR','t1','queued',NULL,NULL,'2026-03-01 12:01:30.000000','2026-03-01 12:01:30.000000','2026-03-01 12:01:31.000000',NULL,NULL,'failed',NULL,NULL,4);
INSERT INTO "series" VALUES(5,'2.25.128822543154564272197138904131695346180','2.25.98200888611837485202777931810032717097','ID-e','Family^e','ACC-e','20260301','MR','t1','open',NULL,NULL,'2026-03-01 12:03:20.000000','2026-03-01 12:03:20.000000',NULL,NULL,NULL,'pending',NULL,NULL,NULL);
CREATE TABLE shadow_result (
	job_id INTEGER NOT NULL, 
	status VARCHAR(16) NOT NULL, 
	label VARCHAR(64), 
	probability DOUBLE, 
	probabilities JSON NOT NULL, 
	reason VARCHAR(64), 
	detail VARCHAR(1024), 
	created_at DATETIME NOT NULL, 
	CONSTRAINT pk_shadow_result PRIMARY KEY (job_id), 
	CONSTRAINT ck_shadow_result_status CHECK (status IN ('classified', 'not-assessed')), 
	CONSTRAINT fk_shadow_result_job_id_job FOREIGN KEY(job_id) REFERENCES job (id)
);
INSERT INTO "shadow_result" VALUES(2,'classified','glioma',0.7,'{"glioma": 0.7, "notumor": 0.30000000000000004}',NULL,NULL,'2026-03-01 12:00:35.000000');
CREATE TABLE slice_result (
	result_id INTEGER NOT NULL, 
	ordinal INTEGER NOT NULL, 
	instance_id INTEGER NOT NULL, 
	frame_number INTEGER, 
	position_mm DOUBLE, 
	probabilities JSON NOT NULL, 
	in_distribution BOOLEAN NOT NULL, 
	deciding BOOLEAN NOT NULL, 
	activation JSON, distance DOUBLE, 
	CONSTRAINT pk_slice_result PRIMARY KEY (result_id, ordinal), 
	CONSTRAINT fk_slice_result_instance_id_instance FOREIGN KEY(instance_id) REFERENCES instance (id), 
	CONSTRAINT fk_slice_result_result_id_result FOREIGN KEY(result_id) REFERENCES result (id)
);
INSERT INTO "slice_result" VALUES(1,0,1,NULL,0.0,'[0.9, 0.09999999999999998]',1,0,NULL,0.0);
INSERT INTO "slice_result" VALUES(1,1,2,NULL,5.0,'[0.9, 0.09999999999999998]',1,1,'{"rows": [[0, 128], [255, 64]], "top": 0.1, "left": 0.2, "height": 0.5, "width": 0.5}',0.25);
INSERT INTO "slice_result" VALUES(1,2,3,NULL,10.0,'[0.9, 0.09999999999999998]',0,0,NULL,0.5);
INSERT INTO "slice_result" VALUES(2,0,4,NULL,NULL,'[0.9, 0.09999999999999998]',1,1,NULL,NULL);
CREATE TABLE "token" (
	id INTEGER NOT NULL, 
	"key" VARCHAR(16) NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	role VARCHAR(16) NOT NULL, 
	secret_sha256 VARCHAR(64) NOT NULL, 
	created_at DATETIME NOT NULL, 
	expires_at DATETIME, 
	revoked_at DATETIME, 
	CONSTRAINT pk_token PRIMARY KEY (id), 
	CONSTRAINT ck_token_role CHECK (role IN ('read', 'annotate', 'operate')), 
	CONSTRAINT uq_token_name UNIQUE (name), 
	CONSTRAINT uq_token_key UNIQUE ("key")
);
INSERT INTO "token" VALUES(1,'0a1b2c3d4e5f','ward','annotate','4cfd6a05c2b458ea4affb22189cfcf1015d6876f2aa5571c788547773cb033d6','2026-03-01 12:01:40.000000',NULL,NULL);
INSERT INTO "token" VALUES(2,'f5e4d3c2b1a0','former','read','d37a3d8cf659cb9002ba08bc9462626d126cca01a1e70ed1dbbfdc5368e8e2ff','2026-03-01 12:01:40.000000','2026-03-01 14:30:00.000000','2026-03-01 12:01:50.000000');
CREATE TABLE web_session (
	id INTEGER NOT NULL, 
	token_id INTEGER NOT NULL, 
	secret_sha256 VARCHAR(64) NOT NULL, 
	created_at DATETIME NOT NULL, 
	expires_at DATETIME NOT NULL, 
	CONSTRAINT pk_web_session PRIMARY KEY (id), 
	CONSTRAINT fk_web_session_token_id_token FOREIGN KEY(token_id) REFERENCES token (id), 
	CONSTRAINT uq_web_session_secret_sha256 UNIQUE (secret_sha256)
);
INSERT INTO "web_session" VALUES(1,1,'f53039bc1f7e203a7926f1385c2fe4da1c27e52a9e75d2e2b9b460bfcfec2fc3','2026-03-01 12:02:00.000000','2026-03-02 01:53:20.000000');
CREATE INDEX ix_association_closed_at ON association (closed_at);
CREATE INDEX ix_series_accession_number ON series (accession_number);
CREATE INDEX ix_series_created_at_id_probability ON series (created_at, id, probability);
CREATE INDEX ix_series_label_created_at_id_probability ON series (label, created_at, id, probability);
CREATE INDEX ix_series_patient_id ON series (patient_id);
CREATE INDEX ix_series_patient_name ON series (patient_name);
CREATE INDEX ix_series_state_last_received_at ON series (state, last_received_at);
CREATE INDEX ix_series_status_created_at_id_probability ON series (status, created_at, id, probability);
CREATE INDEX ix_series_study_instance_uid ON series (study_instance_uid);
CREATE INDEX ix_instance_association_id ON instance (association_id);
CREATE INDEX ix_instance_series_id_id ON instance (series_id, id);
CREATE INDEX ix_job_state_not_before_id ON job (state, not_before, id);
CREATE INDEX ix_result_created_at ON result (created_at);
CREATE INDEX ix_result_series_id_id ON result (series_id, id);
CREATE INDEX ix_slice_result_instance_id ON slice_result (instance_id);
CREATE INDEX ix_delivery_state_id ON delivery (state, id);
CREATE INDEX ix_delivery_transaction_uid ON delivery (transaction_uid);
CREATE INDEX ix_delivery_destination_state_not_before_id ON delivery (destination, state, not_before, id);
CREATE INDEX ix_web_session_token_id ON web_session (token_id);
CREATE INDEX ix_series_status_reason ON series (status, reason) WHERE status = 'refused';
CREATE INDEX ix_delivery_destination_commitment ON delivery (destination, commitment) WHERE commitment IN ('due', 'requested');
CREATE INDEX ix_reading_created_at ON reading (created_at);
CREATE INDEX ix_object_series_instance_uid ON object (series_instance_uid);
COMMIT;
