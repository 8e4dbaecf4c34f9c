"""esrgand: a hot folder with a super-resolution service behind it.

The flow, and where it is:

    inbox -> intake (pipeline/detect, admit) -> ledger -> dispatcher
    dispatcher: lanes of pipeline/upload -> flight (submit, poll) -> fetch -> delivery (write) -> outbox

The layers; imports go down only (`.importlinter` checks it):

    cli, demo, check, estimate, look, models, commands   what a person types
    service, loop, desk, outcome, health, wiring one run: signals, answers, pulses, adapters made from the configuration
    dispatcher, intake, loading, flight, delivery what moves: ask a stage, record its event, react to its fault
    departure, turnstile, turns, room, ears      who leaves next, with slot, minute and room; and who waits for a word
    api, local                                   where predictions are made, and by which engine if that is here
    sweep, probes, drift                         what is looked after meanwhile: objects to delete, gates, the clock
    lanes, gates, world                          how it moves: bounded windows, what stands still for all
    pipeline/                                    the stages; each asks the world once and returns an event
    adapters/                                    the only code that meets the outside; foreign exceptions end there
    engine/                                      Real-ESRGAN on this machine: models, and the process that runs them
    server/                                      the local prediction server: the hosted API's contract on this machine
    ports, ports_ledger, config                  what the inside may rely on
    rules/                                       all decisions, pure; `rules/lifecycle.py` has the one table of states

The words: a picture is a settled file; a job is one content under one recipe, paid for once; a tile is what travels; an
asset is its uploaded copy; a prediction is the service's run; a slot is the right to have one in flight; a fault is an
expected failure, with who is to blame and whether waiting helps.
"""

__version__ = "0.1.0"
