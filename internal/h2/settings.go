package h2

import (
	"encoding/binary"
	"math"
)

// The settings of RFC 9113, section 6.5.2, of RFC 8441, section 3, and of RFC
// 9218, section 2.1.
const (
	settingTableSize     = 0x1
	settingPush          = 0x2
	settingMaxStreams    = 0x3
	settingInitialWindow = 0x4
	settingMaxFrame      = 0x5
	settingMaxList       = 0x6
	settingConnect       = 0x8
	settingNoPriorities  = 0x9
)

// Settings are the settings of one side of a connection.
type Settings struct {
	TableSize     uint32 // SETTINGS_HEADER_TABLE_SIZE
	NoPush        bool   // SETTINGS_ENABLE_PUSH is 0
	MaxStreams    uint32 // SETTINGS_MAX_CONCURRENT_STREAMS
	InitialWindow uint32 // SETTINGS_INITIAL_WINDOW_SIZE
	MaxFrame      uint32 // SETTINGS_MAX_FRAME_SIZE
	MaxList       uint32 // SETTINGS_MAX_HEADER_LIST_SIZE
	Connect       bool   // SETTINGS_ENABLE_CONNECT_PROTOCOL is 1
	NoPriorities  bool   // SETTINGS_NO_RFC7540_PRIORITIES is 1
}

// DefaultSettings returns the settings before the first SETTINGS frame.
func DefaultSettings() Settings {
	return Settings{TableSize: TableSize, MaxStreams: math.MaxUint32, InitialWindow: InitialWindow, MaxFrame: DefaultMaxFrame, MaxList: math.MaxUint32}
}

// Apply applies the settings of a SETTINGS frame, or of a piece of one: a
// Payload that a Parser has checked. shift is the change of InitialWindow: pass
// it to Window.Shift for each stream (RFC 9113, 6.9.2).
func (s *Settings) Apply(payload []byte) (shift int64) {
	before := s.InitialWindow
	for ; len(payload) >= settingSize; payload = payload[settingSize:] {
		v := binary.BigEndian.Uint32(payload[2:])
		switch binary.BigEndian.Uint16(payload) {
		case settingTableSize:
			s.TableSize = v
		case settingPush:
			s.NoPush = v == 0
		case settingMaxStreams:
			s.MaxStreams = v
		case settingInitialWindow:
			s.InitialWindow = v
		case settingMaxFrame:
			s.MaxFrame = v
		case settingMaxList:
			s.MaxList = v
		case settingConnect:
			s.Connect = v == 1
		case settingNoPriorities:
			s.NoPriorities = v == 1
		}
	}
	return int64(s.InitialWindow) - int64(before)
}

// AppendSettings appends a SETTINGS frame with the values that differ from
// DefaultSettings.
func AppendSettings(dst []byte, s *Settings) []byte {
	start := len(dst)
	dst = AppendHead(dst, SettingsFrame, 0, 0, 0)
	add := func(id uint16, v uint32, differs bool) {
		if differs {
			dst = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(dst, id), v)
		}
	}
	std := DefaultSettings()
	add(settingTableSize, s.TableSize, s.TableSize != std.TableSize)
	add(settingPush, 0, s.NoPush)
	add(settingMaxStreams, s.MaxStreams, s.MaxStreams != std.MaxStreams)
	add(settingInitialWindow, s.InitialWindow, s.InitialWindow != std.InitialWindow)
	add(settingMaxFrame, s.MaxFrame, s.MaxFrame != std.MaxFrame)
	add(settingMaxList, s.MaxList, s.MaxList != std.MaxList)
	add(settingConnect, 1, s.Connect)
	add(settingNoPriorities, 1, s.NoPriorities)
	PutHead(dst[start:], SettingsFrame, 0, 0, len(dst)-start-HeadSize)
	return dst
}

// checkSettings checks the settings of a SETTINGS frame. It ignores unknown
// ones.
func checkSettings(payload []byte) error {
	for ; len(payload) > 0; payload = payload[settingSize:] {
		v := binary.BigEndian.Uint32(payload[2:])
		switch binary.BigEndian.Uint16(payload) {
		case settingPush, settingConnect, settingNoPriorities:
			if v > 1 {
				return errSetting
			}
		case settingInitialWindow:
			if v > MaxWindow {
				return errInitial
			}
		case settingMaxFrame:
			if v < DefaultMaxFrame || v > mostMaxFrame {
				return errSetting
			}
		}
	}
	return nil
}
