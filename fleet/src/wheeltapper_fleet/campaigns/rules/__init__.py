"""The rules of campaigns: a spec becomes waves, and an event moves a campaign on. Every file here is pure.

``spec.py`` reads and checks what a campaign is to do, ``execution.py`` is the machine of one device's attempt,
``waves.py`` counts attempts, ``campaign.py`` is the machine that decides on the counts. ``meeting.py`` decides between
campaigns on one device, ``default_release.py`` says what a device runs where no campaign does,
``foresight.py`` what can be seen of a campaign at its creation.

``gates.py`` says what telemetry must show before a wave passes, by the tests of ``sequential.py`` on the devices that
``panel.py`` draws. ``forecast.py`` says what a campaign would do, ``explanation.py`` why a device runs what it runs.
"""
