"""Makes golden.tfevents with TensorBoard's own writer, and reads it back.

    pip install tensorboard==2.21.0
    python make.py
"""

import pathlib

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

PATH = pathlib.Path(__file__).parent / "golden.tfevents"
STEPS = [(1.7e9, 1, 3.0, None), (1.7e9 + 1.5, 150, 3.0 / 150, 0.25)]


def main():
    with open(PATH, "wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(wall_time=1.7e9, file_version="brain.Event:2").SerializeToString())
        for time, step, loss, dev in STEPS:
            values = [("train/loss", loss), ("train/learning_rate", 1e-3), ("train/tokens_per_second", 250.5)]
            values += [("eval/loss", dev)] if dev is not None else []
            summary = Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in values])
            writer.write(Event(wall_time=time, step=step, summary=summary).SerializeToString())
    events = list(EventFileLoader(str(PATH)).Load())
    assert [event.step for event in events] == [0, 1, 150]
    assert events[2].summary.value[3].tag == "eval/loss"


if __name__ == "__main__":
    main()
