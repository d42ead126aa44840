"""Training from the command line on a bucket of a local S3 server."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from xrayfast.synthetic import write_dataset

pytestmark = pytest.mark.slow

SECRET = "aSecretThatNothingShows"


@pytest.fixture(scope="module")
def server():
    """The address of a server, and its requests counted by kind (LIST, HEAD, GET) and suffix of the object."""
    pytest.importorskip("s3fs")
    threaded = pytest.importorskip("moto.server").ThreadedMotoServer
    server = threaded("127.0.0.1", port=0, verbose=False)
    server.start()
    asked, answer = Counter(), server._server.app

    def count(environ, start):
        kind = "LIST" if "list-type" in environ["QUERY_STRING"] else environ["REQUEST_METHOD"]
        asked[kind, Path(environ["PATH_INFO"]).suffix] += 1
        return answer(environ, start)

    server._server.app = count
    yield "http://{}:{}".format(*server.get_host_and_port()), asked
    server.stop()


@pytest.fixture(scope="module")
def bucket(server, tmp_path_factory):
    """The environment for commands, and the local folder with the same files as the bucket."""
    import boto3

    folder = tmp_path_factory.mktemp("s3")
    write_dataset(folder / "data", images=48, size=64)
    shutil.make_archive(str(folder / "images"), "zip", folder / "data")
    address, _ = server
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
    s3 = boto3.client("s3", endpoint_url=address, **keys)
    s3.create_bucket(Bucket="hospital")
    for file in (folder / "data").rglob("*.*"):
        s3.upload_file(str(file), "hospital", f"data/{file.relative_to(folder / 'data')}")
    s3.upload_file(str(folder / "images.zip"), "hospital", "images.zip")
    import os

    environment = {
        **os.environ,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": address,
        "XRAYFAST_CACHE": str(folder / "cache"),
    }
    return environment, folder


def xrayfast(bucket, *arguments):
    environment, folder = bucket
    command = [sys.executable, "-m", "xrayfast", *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert SECRET not in done.stdout + done.stderr
    return done


FAST = ("--arch", "resnet18", "--weights", "none", "--epochs", "1", "--size", "64", "--workers", "0", "--device", "cpu")


@pytest.mark.parametrize("place", ["data", "images.zip"])
def test_a_run_on_a_bucket_equals_one_on_the_files_and_reads_nothing_twice(server, bucket, place):
    folder, asked = bucket[1], server[1]
    name = place.partition(".")[0]
    tables = 4 if place == "images.zip" else 0  # each run reads the table, which is in the zip file
    local = xrayfast(bucket, "fit", "data" if place == "data" else place, *FAST, "--name", f"local-{name}")
    assert local.returncode == 0, local.stderr
    for run in (f"first-{name}", f"second-{name}"):
        asked.clear()
        done = xrayfast(bucket, "fit", f"s3://hospital/{place}", *FAST, "--name", run)
        assert done.returncode == 0, done.stderr
        images = asked["GET", ".png"] + asked["GET", ".zip"]
        assert images >= 48 if run.startswith("first") else images <= tables, asked
        for file in ("split.csv", "history.csv", "predictions/valid.csv"):
            ours, files = (pd.read_csv(folder / "runs" / one / file) for one in (run, f"local-{name}"))
            columns = [column for column in ours if column not in ("seconds", "time")]
            pd.testing.assert_frame_equal(ours[columns], files[columns])
    for file in filter(Path.is_file, (folder / "runs").rglob("*")):
        assert SECRET.encode() not in file.read_bytes()
    shown = xrayfast(bucket, "interpret", f"runs/first-{name}")
    assert shown.returncode == 0
    assert f"are read over the network: s3://hospital/{place}." in " ".join(shown.stderr.split())
    asked.clear()
    seen = xrayfast(bucket, "evaluate", f"runs/first-{name}", f"s3://hospital/{place}")
    assert seen.returncode == 1 and "seen in training" in seen.stderr  # the same images, recognized by their content
    assert xrayfast(bucket, "check", f"s3://hospital/{place}", "--size", "64").returncode in (0, 1)
    assert asked["GET", ".png"] + asked["GET", ".zip"] <= 2 * tables, asked
    # This compares images at 224 pixels, so it decodes them from the bucket again.
    assert xrayfast(bucket, "split", f"s3://hospital/{place}").returncode == 0


def test_a_server_that_is_gone_is_named(bucket):
    environment, folder = bucket
    gone = {**environment, "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}
    done = xrayfast((gone, folder), "check", "s3://hospital/data")
    assert done.returncode == 1 and "s3://hospital/data: can't be read" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
