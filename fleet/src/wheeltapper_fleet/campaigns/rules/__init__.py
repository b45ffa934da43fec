"""The rules of campaigns: a spec becomes waves, and an event moves a campaign on. Every file here is pure.

``spec.py`` reads and checks what a campaign is to do, ``waves.py`` counts within a wave, ``execution.py`` orders the
states of one device's attempt, ``campaign.py`` is the state machine over all of them. ``meeting.py`` decides between
campaigns on one device, ``default_release.py`` says what a device runs where no campaign does,
``foresight.py`` what can be seen of a campaign at its creation.
"""
